"""A network between a client and the server that loses answers."""

import socket
import threading
from urllib.parse import urlsplit


class Network:
    """Hands connections on. `lose(n)`: of the next `n`, nothing of the answers arrives."""

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
        """Breaks the connections that there are."""
        with self._change:
            for near in self._open:
                near.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def wait_for(self, connections):
        with self._change:
            assert self._change.wait_for(lambda: self.connections >= connections, 15), "nobody came back"

    def stop(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            with self._change:
                self.connections += 1
                self._open.append(near)
                self._change.notify_all()
            is_lost, self._to_lose = self._to_lose > 0, max(0, self._to_lose - 1)
            threading.Thread(target=self._hand_on, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._hand_on, args=(far, near, is_lost), daemon=True).start()

    def _hand_on(self, source, sink, is_lost):
        try:
            while data := source.recv(65536):
                if is_lost:
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            with self._change:
                self._open = [near for near in self._open if near not in (source, sink)]
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
