"""The official Python client against claudemesh: client.py <binary> <tools>; reads calls.json, prints one JSON line."""

import asyncio
import json
import os
import pathlib
import sys

from mcp import ClientSession, StdioServerParameters, stdio_client

CALLS = json.loads((pathlib.Path(__file__).parent / "calls.json").read_text())


async def main(binary: str, tools: str) -> None:
    server = StdioServerParameters(command=binary, args=["mcp", "--tools", tools], env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        hello = await session.initialize()
        listed = (await session.list_tools()).tools
        names = {tool.name for tool in listed}
        for call in CALLS:
            assert call["tool"] in names, f"{call['tool']} is not listed"
            result = (await session.call_tool(call["tool"], call["arguments"])).model_dump(by_alias=True)
            assert not result.get("isError"), result
            structured = result["structuredContent"]
            assert call["has"] in structured, result
            assert json.loads(result["content"][0]["text"]) == structured, result
        missing = (await session.call_tool("get_state", {"key": "nothing-there"})).model_dump(by_alias=True)
        assert missing["isError"] and missing["structuredContent"]["error"]["code"] == "not_found", missing
    version = hello.model_dump(by_alias=True)["protocolVersion"]
    print(json.dumps({"tools": len(listed), "calls": len(CALLS), "protocol": version}))


asyncio.run(main(*sys.argv[1:]))
