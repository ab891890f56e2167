"""AdmissionReview: whatever is posted, the webhook answers 200, 400 or 413, and a 200 is a whole review."""

import asyncio
import atexit
import json

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from agent.webhook.server import LARGEST_REVIEW, PATH, make_app

APP = make_app()
ROUTES = [route for route in APP.router.routes() if route.method == "POST"]
LOOP = asyncio.new_event_loop()
atexit.register(LOOP.close)


def one(data: bytes) -> None:
    for route in ROUTES:
        status, body = LOOP.run_until_complete(post(route, data))
        assert status in {200, 400, 413}, status
        if status == 200:
            check(data, body)


def check(data: bytes, body: bytes) -> None:
    review = json.loads(body)
    assert review["kind"] == "AdmissionReview"
    response = review["response"]
    assert response["uid"] == json.loads(data)["request"]["uid"]
    assert response["allowed"] is ("status" not in response)


async def post(route: web.AbstractRoute, data: bytes) -> tuple[int, bytes]:
    request = make_mocked_request("POST", PATH, payload=Body(data), client_max_size=LARGEST_REVIEW)
    try:
        response = await route.handler(request)
    except web.HTTPException as refused:
        return refused.status, b""
    return response.status, bytes(response.body)


class Body:
    """A request's body that is all there."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def set_read_chunk_size(self, size: int) -> None:
        pass

    async def readany(self) -> bytes:
        data, self._data = self._data, b""
        return data
