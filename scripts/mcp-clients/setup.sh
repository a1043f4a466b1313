#!/bin/sh
# Downloads the official clients beside this file: npm packages as locked, and a Python environment.
set -eu
cd "$(dirname "$0")"
[ -d node_modules/@modelcontextprotocol/inspector ] || npm ci --silent --no-progress --ignore-scripts
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -c 'import mcp' 2>/dev/null || .venv/bin/pip install --quiet --requirement requirements.txt
