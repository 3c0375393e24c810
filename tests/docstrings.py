"""Real texts that every machine has: docstrings of the standard library."""

from __future__ import annotations

import argparse
import base64
import calendar
import collections
import configparser
import csv
import datetime
import decimal
import difflib
import email.message
import fractions
import functools
import heapq
import inspect
import json
import pathlib
import random
import shutil
import statistics
import string
import subprocess
import tarfile
import textwrap
import threading
import zipfile
from types import ModuleType

MODULES: tuple[ModuleType, ...] = (
    argparse,
    base64,
    calendar,
    collections,
    configparser,
    csv,
    datetime,
    decimal,
    difflib,
    email.message,
    fractions,
    functools,
    heapq,
    json,
    pathlib,
    random,
    shutil,
    statistics,
    string,
    subprocess,
    tarfile,
    textwrap,
    threading,
    zipfile,
)


def docstrings() -> dict[str, str]:
    """Distinct docstrings of some length, by qualified name."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name, member in vars(module).items():
            text = inspect.getdoc(member) if inspect.isfunction(member) or inspect.isclass(member) else None
            if text and len(text) > 100 and text not in found.values():
                found[f"{module.__name__}.{name}"] = text
    return found
