"""`headgate up`: everything on this machine, for tickets of your own."""

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from streams.local.machine import LocalRun, local_run, start_certify
from streams.settings import PREFIX, Settings


async def up(
    settings: Settings, company: Path, folder: Path, embedded: bool, spend_limit_usd: float, console: Console
) -> None:
    """Start, say how to use it, and stay until cancelled.

    Raises: StepError naming the step that failed and what to do.
    """

    def say(text: str) -> None:
        console.print(f"  {escape(text)}", highlight=False)

    async with local_run(settings, company, folder, embedded, spend_limit_usd, say) as run:
        # The demo does without: the labels of its few tickets change no policy.
        await start_certify(run, say)
        environment = folder / "environment"
        environment.write_text(_exports(run), "utf-8")
        try:
            how_to = _how_to(environment, run.console, run.frontier.recorded, folder)
            console.print(how_to, highlight=False, soft_wrap=True)
            await run.processes.watch()
        finally:
            environment.unlink()


def _exports(run: LocalRun) -> str:
    """What the stages are told, for a shell, so that every other command is told the same. A key is named only."""
    values = {name: shlex.quote(value) for name, value in run.environment.items()}
    if not run.frontier.recorded:
        values[PREFIX + "TIER2__API_KEY"] = f'"${run.frontier.key_name}"'
    return "".join(f"export {name}={value}\n" for name, value in values.items())


def _how_to(environment: Path, address: str | None, recorded: bool, folder: Path) -> str:
    known = (
        "\nTier-2 is a recording of answers to the example tickets: any other ticket that needs it\n"
        "goes to a person (handoffs). "
        "Set ANTHROPIC_API_KEY or OPENAI_API_KEY for the real thing.\n"
        if recorded
        else ""
    )
    shown = f"What becomes of them, what that costs and how good it is: [bold]{address}[/]\n" if address else ""
    command = escape(sys.argv[0])
    return f"""
[bold]Headgate is up.[/] In another shell:

  . {escape(shlex.quote(str(environment)))}
  echo '{{"ticket_id": "1", "body": "why is there a late fee on my bill?"}}' | {command} publish -
  {command} answers --follow

Any Kafka client will do: publish JSON to the topic [bold]tickets[/], read the topic [bold]answers[/].
{known}{shown}Logs: {escape(str(folder))}/logs    Ctrl-C stops everything.
"""
