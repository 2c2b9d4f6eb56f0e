"""TLS contexts whose files are watched, and the metrics that say until when their certificates are valid."""

from __future__ import annotations

from pathlib import Path

from gateway import observe
from gateway.reload import FileWatch
from gateway.tls import ClientTls, ReloadingContext, ServerTls, next_update, not_after, server_context


def watch_server(watch: FileWatch, source: str, config: ServerTls) -> ReloadingContext:
    """The context of a listener, or of the REST API; TlsError."""
    context = ReloadingContext(lambda: server_context(config))

    def reload() -> None:
        context.reload()
        _show(source, config.certificate_file, not_after(config.certificate_file))
        if config.crl_file is not None:
            _show(source, config.crl_file, next_update(config.crl_file))

    files = (config.certificate_file, config.key_file, config.client_ca_file, config.crl_file)
    watch.add(source, files, reload)
    return context


def watch_client(watch: FileWatch, source: str, config: ClientTls, context: ReloadingContext) -> None:
    """Keeps the context for connections to brokers up to date."""

    def reload() -> None:
        context.reload()
        if config.certificate_file is not None:
            _show(source, config.certificate_file, not_after(config.certificate_file))

    watch.add(source, (config.ca_file, config.certificate_file, config.key_file), reload)


def _show(source: str, file: Path, valid_until: float) -> None:
    observe.certificate_not_after_seconds.labels(source, str(file)).set(valid_until)
