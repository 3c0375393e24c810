// The story of story.py, told by the TypeScript SDK's client: node story.mjs '{"package", "mode", "command", "args", "env"}'
const { package: name, mode, command, args, env } = JSON.parse(process.argv[2])
const isFirst = name.endsWith('/sdk') // v1 of the SDK, which speaks the handshake versions only
const { Client } = await import(isFirst ? `${name}/client/index.js` : name)
const { StdioClientTransport } = await import(isFirst ? `${name}/client/stdio.js` : `${name}/stdio`)

const options = isFirst ? {} : { versionNegotiation: { mode } }
const client = new Client({ name: 'story', version: '1' }, options)
const transport = new StdioClientTransport({ command, args, env: { ...process.env, ...env }, stderr: 'ignore' })
const report = {}
transport.setProtocolVersion = version => (report.protocol = version) // the first SDK tells it to nobody else
await client.connect(transport)

const request = (tool, input, options) =>
  isFirst
    ? client.callTool({ name: tool, arguments: input }, undefined, options)
    : client.callTool({ name: tool, arguments: input }, options)

async function call(tool, input, options) {
  const result = await request(tool, input, options)
  if (result.isError) throw new Error(`${tool}: ${result.content[0].text}`)
  return result.structuredContent
}

report.server = client.getServerVersion().name
if (!isFirst) report.protocol = client.getNegotiatedProtocolVersion()
const { tools } = await client.listTools()
report.tools = tools.map(tool => tool.name)
report.toolsBytes = Buffer.byteLength(JSON.stringify(tools))

const { id } = await call('memory_usage', { action: 'store', key: 'pläne/1', value: { ship: [1, null, '"1"'] } })
report.retrieved = (await call('memory_usage', { action: 'retrieve', key: 'pläne/1' })).value
report.read = (await client.readResource({ uri: id })).contents[0].text

const agents = ['researcher', 'sleeper'].map(type => ({ type, name: type }))
const progress = []
const onprogress = ({ progress: done, total }) => progress.push([done, total])
const spawned = (await call('agents_spawn_parallel', { agents }, { onprogress })).results
report.progress = progress
report.spawned = spawned.map(agent => agent.status)
const prompt = JSON.stringify({ do: 'analyze_document', text: '# Tides\n\nThe sea rose by 3 metres.' })
const work = await call('query_start', { agentId: spawned[0].agentId, prompt })
const [ended] = (await call('query_wait', { queryIds: [work.queryId], timeout: 60 })).results
report.status = ended.status
report.result = ended.result
report.agents = (await call('agents_list', {})).agents.map(agent => agent.name)

const sleep = await call('query_start', { agentId: spawned[1].agentId, prompt: 'x' })
const stop = new AbortController()
const waiting = { queryIds: [sleep.queryId], timeout: 600 }
report.cancelled = await request('query_wait', waiting, { signal: stop.signal, onprogress: () => stop.abort() }).then(
  () => false,
  () => true
)
const errors = async () => (await call('server_status', {})).performance.calls.query_wait?.errors ?? 0
while ((await errors()) < 1); // the server has ended the cancelled call
report.queries = (await call('query_list', {})).queries.map(query => query.status)

const refused = await request('memory_usage', { action: 'remember' })
report.refusal = { isError: refused.isError, ...refused.structuredContent, text: refused.content[0].text }
const unknown = await request('memory_usage', { action: 'list', colour: 'red' })
report.unknown = unknown.content[0].text

await client.close()
console.log(JSON.stringify(report))
