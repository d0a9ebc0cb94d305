"""What `scripts/compose-check` reads from docker-compose.yml (as JSON of `docker-compose config`) and from the Dockerfile."""

import json
import re
import sys


def fail(problems):
    for problem in problems:
        print(f"docker-compose.yml: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def check(config):
    """Every service is restarted, bounded, checked and without secrets of its own; OmniLink runs with as few rights as it can."""
    problems = []
    secret = re.compile(r"password|secret|api_?key|token", re.IGNORECASE)
    for name, service in config["services"].items():
        for needed in ("healthcheck", "restart", "deploy", "logging"):
            if needed not in service:
                problems.append(f"{name} has no `{needed}`")
        if "memory" not in service.get("deploy", {}).get("resources", {}).get("limits", {}):
            problems.append(f"{name} has no limit of memory")
        if "no-new-privileges:true" not in service.get("security_opt", []):
            problems.append(f"{name} may gain privileges")
        if "build" not in service and not re.search(r":[^:@]*\d", service["image"]):
            problems.append(f"{name}: {service['image']} has no version")
        for key, value in (service.get("environment") or {}).items():
            if secret.search(key) and not str(value).startswith("/run/secrets/"):
                problems.append(f"{name}: {key} is a secret in the environment")
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                problems.append(f"{name} publishes {port['target']} beyond this machine")
        for on, how in service.get("depends_on", {}).items():
            if how["condition"] != "service_healthy":
                problems.append(f"{name} does not wait until {on} is healthy")
    omnilink = config["services"]["omnilink"]
    if not omnilink.get("read_only") or omnilink.get("cap_drop") != ["ALL"]:
        problems.append("omnilink: its root is writable, or it has capabilities")
    fail(problems)


def environment(config, service):
    for key, value in config["services"][service]["environment"].items():
        print(f"{key}={value}", end="\0")


def command(config, service):
    for word in config["services"][service]["command"]:
        # Compose escapes what it would interpolate.
        print(word.replace("$$", "$"), end="\0")


def names(config):
    print(*sorted(config["services"]), sep="\n")


def dockerfile(path):
    """Its instructions: INSTRUCTION<TAB>rest, continuation lines joined, each ended by NUL."""
    text = open(path, encoding="utf-8").read()
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").split("\n"):
        if line.strip():
            word, rest = line.strip().split(None, 1)
            print(f"{word}\t{rest}", end="\0")


if __name__ == "__main__":
    action, path, *rest = sys.argv[1:]
    if action == "dockerfile":
        dockerfile(path)
    else:
        with open(path, encoding="utf-8") as file:
            globals()[action](json.load(file), *rest)
