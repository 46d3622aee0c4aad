"""The same receiver on Go's net/http, on Node's http and on uvicorn, and nginx before it: `tests/real_servers.py`."""
