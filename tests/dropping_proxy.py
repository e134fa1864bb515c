"""A wire between a client and a Redis server that loses answers."""

from __future__ import annotations

import select
import socket
import threading


class DroppingProxy:
    """Passes bytes between a client and the server, and swallows so many scripts' answers."""

    def __init__(self, port: int) -> None:
        self.drops = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._pumps: list[threading.Thread] = []

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for pump in self._pumps:
            pump.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            pump = threading.Thread(target=self._pump, args=(client,))
            pump.start()
            self._pumps.append(pump)

    def _pump(self, client: socket.socket) -> None:
        """Until either side ends, or an answer is swallowed."""
        script = False
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    if not (data := source.recv(1 << 20)):
                        return
                    if source is client:
                        script = b"EVAL" in data
                        server.sendall(data)
                    elif self.drops and script and not data.startswith(b"-NOSCRIPT"):
                        self.drops -= 1
                        return
                    else:
                        client.sendall(data)
