"""What `tools.plan` found, as text and as a page."""

from html import escape

from eseg_jax.report import html

GIB = 2**30
_PARTS = {
    "arguments": "var(--accent)",
    "temporaries": "var(--second)",
    "outputs": "var(--third)",
    "program": "var(--fourth)",
}
_SECONDS = {
    "compiler": "the compiler's cycles",
    "memory": "bytes of HBM",
    "kernels": "our kernels",
    "links": "between chips",
}


def title(record: dict) -> str:
    """What was compiled, in a line."""
    if "refused" in record:
        return f"{record['topology']}{_fields(record)}"
    size = "{}x{}".format(*record["size"])
    return (
        f"{record['model']} {record['mode']} on {record['topology']}, batch "
        f"{record['batch_size']} of {size}{_fields(record)}"
    )


def _fields(record: dict) -> str:
    return "".join(f", {k}={v}" for k, v in record.get("fields", {}).items())


def rows(record: dict) -> dict[str, str]:
    """Everything but the lists, by name, in words."""
    if "refused" in record:
        return {"refused": record["refused"]}
    compiling = sum(record["compile_seconds"])
    found = {"HBM a chip": _memory(record)}
    if record["advice"]:
        found["to make it fit"] = "; or ".join(record["advice"])
    if "seconds" in record:
        by = ", ".join(
            f"{_SECONDS[k]} {1e3 * v:.1f}"
            for k, v in record["seconds_by_source"].items()
            if v >= 5e-5
        )
        found["step"] = f"{1e3 * record['seconds']:.1f} ms: {by}"
        found["images/s"] = (
            f"{record['images_per_second']:.1f}, "
            f"{record['images_per_second_chip']:.1f} a chip"
        )
        if record["flops_an_image"]:
            found["MFU"] = (
                f"{100 * record['mfu']:.1f} %: {record['flops_an_image'] / 1e9:.4g} "
                "GFLOP of convolutions an image"
            )
        if record["hours"]:
            found["the whole run"] = (
                f"{record['hours']:.1f} h, {record['steps']:,} steps"
            )
        found["collectives"] = "; ".join(
            f"{count} {kind} of {size / 1e6:.1f} MB"
            for kind, (count, size) in record["collectives"].items()
        )
        found["estimate"] = _honesty(record)
    found["compiled in"] = f"{compiling:.0f} s"
    return found


def _memory(record: dict) -> str:
    capacity = f"{record['capacity'] / GIB:.2f} GiB"
    if "hbm" not in record:
        needed = record["needed"] / GIB
        return f"DOES NOT FIT: {needed:.2f} of {capacity}"
    parts = record["hbm"]
    inner = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    fits = "" if record["fits"] else "DOES NOT FIT: "
    return f"{fits}{sum(parts.values()) / GIB:.2f} of {capacity}: {inner}"


def _honesty(record: dict) -> str:
    """How far the seconds are the compiler's."""
    without, count = record["without_estimate"], record["instructions"]
    share = f"{without} of {count} instructions have no cycles of the compiler"
    if record["loops_once"]:
        share += f"; {record['loops_once']} loops of unknown length count once"
    optimal = record["optimal_seconds"]
    if optimal is not None:
        share += f"; its optimal_seconds, for comparison: {1e3 * optimal:.1f} ms"
    return share


def text(record: dict) -> str:
    """A record for the terminal."""
    lines = [title(record)]
    lines += [f"  {name:<15} {value}" for name, value in rows(record).items()]
    if record.get("slowest"):
        lines.append("  slowest sources, ms")
        lines += [
            f"    {1e3 * seconds:9.2f}  {name or '(none)'}"
            for name, seconds in list(record["slowest"].items())[:5]
        ]
    if record.get("buffers"):
        lines.append("  largest buffers, MiB")
        lines += [
            f"    {size / 2**20:9.1f}  {shape.split('{')[0].lstrip('(')}  {name}"
            for size, shape, name in record["buffers"][:5]
        ]
    return "\n".join(lines)


def page(records: list[dict], best: dict | None, command: str) -> str:
    """The whole HTML page of some records, `best` among them."""
    head = (
        '<header>\n<p class="kicker">eseg_jax · compiled ahead of time, nothing was '
        f"run</p>\n<h1>Plan</h1>\n<pre>{escape(command)}</pre>\n{_tiles(best)}</header>"
    )
    overview = _overview(records) if len(records) > 1 else ""
    details = [_detail(record) for record in records]
    return html.document("Plan", "\n".join([head, overview, *details]))


def _tiles(best: dict | None) -> str:
    if best is None:
        return "<p><b>Nothing fits.</b></p>"
    memory = sum(best["hbm"].values())
    tiles = [
        (
            "HBM",
            f"{memory / GIB:.2f}",
            "GiB",
            f"of {best['capacity'] / GIB:.2f} a chip",
        ),
        ("step", f"{1e3 * best['seconds']:.1f}", "ms", f"batch {best['batch_size']}"),
        ("images/s", f"{best['images_per_second']:.0f}", "", _a_chip(best)),
    ]
    if best["mfu"]:
        tiles.append(("MFU", html.percent(best["mfu"]), "%", best["device"]))
    if best["hours"]:
        steps = f"{best['steps']:,} steps"
        tiles.append(("whole run", f"{best['hours']:.1f}", "h", steps))
    shown = "".join(
        f'<div><span class="label">{label}</span><span class="value">{value}'
        f'<small>{unit}</small></span><span class="sub">{escape(sub)}</span></div>'
        for label, value, unit, sub in tiles
    )
    return f'<div class="stats">{shown}</div><p class="note">{escape(title(best))}</p>'


def _a_chip(record: dict) -> str:
    return f"{record['images_per_second_chip']:.1f} a chip, {record['chips']} chips"


def _overview(records: list[dict]) -> str:
    lines = "".join(
        f"<tr><th>{escape(title(record))}</th><td>{escape(value)}</td></tr>"
        for record in records
        for value in [
            "; ".join(
                rows(record).get(name, "")
                for name in ("refused", "HBM a chip", "images/s", "the whole run")
                if name in rows(record)
            )
        ]
    )
    return html.section("All", "", f"<table>{lines}</table>")


def _detail(record: dict) -> str:
    body = ""
    if "hbm" in record:
        total = max(record["capacity"], sum(record["hbm"].values()))
        bar = "".join(
            f'<span style="width:{100 * size / total:.2f}%;background:'
            f'{_PARTS[name]}" title="{name}"></span>'
            for name, size in record["hbm"].items()
        )
        body += f'<div class="split" style="background:var(--track)">{bar}</div>'
        keys = "".join(
            f'<li><i style="background:{_PARTS[name]}"></i><b>{size / GIB:.2f}'
            f"<small>GiB</small></b><em>{name}</em></li>"
            for name, size in record["hbm"].items()
        )
        body += f'<ul class="times">{keys}</ul>'
    body += _table(rows(record).items())
    if record.get("slowest"):
        body += "<h3>Slowest sources, ms</h3>" + _table(
            (f"{1e3 * seconds:.2f}", name or "(none)")
            for name, seconds in record["slowest"].items()
        )
    if record.get("buffers"):
        body += "<h3>Largest buffers, MiB</h3>" + _table(
            (f"{size / 2**20:.1f}", f"{shape} {name}")
            for size, shape, name in record["buffers"]
        )
    return html.section(title(record), "", body)


def _table(items) -> str:
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in items
    )
    return f"<table>{lines}</table>"
