"""``shrinkwrap info --config``: what the configuration comes to, and which file says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shrinkwrap.cli.output import clean, print_json

if TYPE_CHECKING:
    from shrinkwrap.snapshot.client import ClientSettings


def show(settings: ClientSettings, *, as_json: bool) -> None:
    """Print the parameters in force with their origin, then what is not used or not known. Passwords are left out."""
    from shrinkwrap.fetch.urls import shown

    out: dict[str, Any] = {
        "command": "info",
        "fqrn": settings.fqrn,
        "files": list(settings.files),
        "parameters": [
            {"name": name, "value": shown(value), "origin": origin} for name, value, origin in settings.in_force
        ],
        "unknown": [{"name": name, "origin": origin} for name, origin in settings.unknown],
        "ignored": [{"name": name, "why": why} for name, why in settings.ignored],
        "notes": list(settings.notes),
    }
    if as_json:
        print_json({**out, "reason": "done", "exit_code": 0})
        return
    print(f"{len(settings.files)} files read" + (":" if settings.files else f" for {settings.fqrn}"))
    for file in settings.files:
        print(f"  {clean(file)}")
    for one in out["parameters"]:
        print(clean(f"{one['name']}={one['value']}    # {one['origin']}"))
    for name, why in settings.ignored:
        print(clean(f"not used: {name} ({why})"))
    for name, origin in settings.unknown:
        print(clean(f"unknown: {name} ({origin})"))
    for note in settings.notes:
        print(clean(f"note: {note}"))
