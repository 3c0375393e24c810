// JSON whose numbers stay as they were written: 1.0 is not 1 to everybody, and JavaScript rounds long integers.

export function parseExact(text) {
  if (typeof JSON.rawJSON !== "function") return JSON.parse(text);
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context.source !== String(value) ? JSON.rawJSON(context.source) : value,
  );
}

// A report whose result is as exact; its other figures are numbers to count with.
export function parseReport(text) {
  const report = JSON.parse(text);
  return "result" in report ? { ...report, result: parseExact(text).result } : report;
}

// A copy of plain values, for a channel that carries no others; null if a number would not survive.
export function plainCopy(value) {
  const text = JSON.stringify(value);
  const copy = JSON.parse(text);
  return JSON.stringify(copy) === text ? copy : null;
}
