"""A small http proxy: CONNECT tunnels and absolute-form GETs, with or without a password."""

import base64
import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Proxy:
    """Listens on a free port of 127.0.0.1; `asked` holds the first line of each request."""

    def __init__(self, *, password: str | None = None, refuse: int | None = None) -> None:
        self.asked: list[str] = []
        self._password, self._refuse = password, refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def url(self) -> str:
        user = f"user:{self._password}@" if self._password else ""
        return f"http://{user}127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            line, _, rest = head.decode().partition("\r\n")
            self.asked.append(line)
            right = base64.b64encode(f"user:{self._password}".encode()).decode()
            if self._password and f"Proxy-Authorization: Basic {right}" not in rest:
                client.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
                return
            if self._refuse:
                client.sendall(f"HTTP/1.1 {self._refuse} No\r\nContent-Length: 0\r\n\r\n".encode())
                return
            method, target, _ = line.split()
            place = urlsplit(target if method == "GET" else f"//{target}")
            with socket.create_connection((place.hostname, place.port)) as origin:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Go\r\n\r\n")
                else:
                    origin.sendall(head)
                threading.Thread(target=_pump, args=(origin, client), daemon=True).start()
                _pump(client, origin)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
