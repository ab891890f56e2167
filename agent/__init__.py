"""model-agent: makes a declared set of models really be served, next to any model server."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look the version up when it is asked for: the proxy's process need not load what reads it."""
        if name != "__version__":
            raise AttributeError(name)
        from importlib import metadata  # noqa: PLC0415

        try:
            return metadata.version("model-agent")
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            return "0.0.0"
