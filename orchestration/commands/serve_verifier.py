"""Serve the verifiers over HTTP, for other trainers (docs/verifiers.md).

    temper serve-verifier                                  http://127.0.0.1:8321, see /docs there
    temper serve-verifier --workers 4 deadline_s=5 workers.verilog=2
    temper serve-verifier --host 0.0.0.0 --token-file token.txt

The bearer token, if there is one, comes from a file or from the environment variable TEMPER_VERIFIER_TOKEN. Without one
the service listens on the loopback interface only. Ctrl-C ends it.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

from orchestration.endpoint import Endpoint
from orchestration.errors import ConfigError
from orchestration.reward_options import add_reward_arguments, reward_config

TOKEN_VARIABLE = "TEMPER_VERIFIER_TOKEN"
MIN_TOKEN_CHARS = 16
RAY_ENVIRONMENT = {  # Ray reads it when it is imported
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: this machine is the cluster, and listens on loopback
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8321, help="port to listen at (default: %(default)s)")
    parser.add_argument("--token-file", type=Path, help=f"file with the bearer token; otherwise ${TOKEN_VARIABLE}")
    parser.add_argument("--max-body-mib", type=int, default=16, help="largest request body (default: %(default)s)")
    add_reward_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    token = read_token(arguments.token_file)
    endpoint = Endpoint(host=arguments.host, port=arguments.port)
    if token is None and not endpoint.is_loopback:
        raise ConfigError(
            f"--host {arguments.host} can be reached from other machines: protect it with --token-file or"
            f" ${TOKEN_VARIABLE}, or leave the host out"
        )
    if not 0 < arguments.port < 1 << 16:
        raise ConfigError(f"--port is between 1 and 65535, got {arguments.port}")
    if arguments.max_body_mib < 1:
        raise ConfigError(f"--max-body-mib is at least 1, got {arguments.max_body_mib}")
    config = reward_config(arguments)
    endpoint.require_free()
    lacking = tools_or_refusal(config)

    from orchestration.process import prepare

    prepare()
    os.environ.update(RAY_ENVIRONMENT)
    from orchestration.serve_verifier import serving, wait_for_interrupt
    from reward.http import HttpConfig

    http = HttpConfig(
        max_body_bytes=arguments.max_body_mib << 20,
        token_sha256=None if token is None else hashlib.sha256(token.encode()).hexdigest(),
    )
    with serving(config, http, endpoint):
        sys.stderr.write("".join(f"temper: without {name}: {why}\n" for name, why in lacking.items()))
        sys.stdout.write(f"listening at {endpoint.url} (try {endpoint.url}/docs), Ctrl-C ends it\n")
        sys.stdout.flush()
        wait_for_interrupt()
    return 0


def read_token(file: Path | None) -> str | None:
    """From the file, else from the environment, where no process that judges shall find it. Raises ConfigError."""
    token = os.environ.pop(TOKEN_VARIABLE, None)
    source = f"${TOKEN_VARIABLE}"
    if file is not None:
        source = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {error}") from error
    if token is None:
        return None
    token = token.strip()
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token of {source} is at least {MIN_TOKEN_CHARS} ASCII characters without spaces:"
            " `openssl rand -hex 32` makes one"
        )
    return token


def tools_or_refusal(config) -> dict[str, str]:
    """What the verifiers that cannot work here lack. Raises RewardError where none can."""
    from reward.errors import ToolError
    from reward.service import missing_tools

    found = missing_tools(config)
    lacking = {name: why for name, why in found.items() if why is not None}
    if len(lacking) == len(found):
        raise ToolError(f"no verifier can work here: {next(iter(lacking.values()))}")
    return lacking
