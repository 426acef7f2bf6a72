"""A TCP proxy between client and server that loses responses."""

import socket
import threading
from urllib.parse import urlsplit


class LossyProxy:
    """Forwards connections. After `lose(n)`, the responses of the next `n` are dropped."""

    def __init__(self, target):
        target = urlsplit(target)
        self._target = (target.hostname, target.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._to_lose = 0
        self._open = []
        self.connections = 0
        self._change = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, count):
        self._to_lose = count

    def cut(self):
        """Closes all connections."""
        with self._change:
            for client in self._open:
                client.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def wait_for(self, connections):
        with self._change:
            assert self._change.wait_for(lambda: self.connections >= connections, 15), "the client did not reconnect"

    def stop(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(self._target)
            with self._change:
                self.connections += 1
                self._open.append(client)
                self._change.notify_all()
            is_lost = self._to_lose > 0
            self._to_lose = max(0, self._to_lose - 1)
            threading.Thread(target=self._forward, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=self._forward, args=(upstream, client, is_lost), daemon=True).start()

    def _forward(self, source, sink, is_lost):
        try:
            while data := source.recv(65536):
                if is_lost:
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            with self._change:
                self._open = [client for client in self._open if client not in (source, sink)]
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
