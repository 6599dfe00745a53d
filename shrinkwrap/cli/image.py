"""``shrinkwrap image``: one file from repositories; what is in it, and whether it is sound."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkwrap.cli import imagediff
from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say
from shrinkwrap.errors import UsageError, VerificationFailed

if TYPE_CHECKING:
    from shrinkwrap.image.formats import Form
    from shrinkwrap.image.inspect import Described
    from shrinkwrap.image.request import ExportedPart, ImageResult, Part
    from shrinkwrap.image.squashfs.recipe import Recipe

_EXAMPLES = """\b
Examples:
  shrinkwrap image -r sft.cern.ch --server http://stratum1.example.org/cvmfs/sft.cern.ch \\
      --key /etc/cvmfs/keys/cern.ch -t sft.cern.ch.spec -o sft.squashfs
  shrinkwrap image -r sft.cern.ch -r lhcb.cern.ch -f site.conf --tag lhcb.cern.ch=v55r1 \\
      -t sft.cern.ch=sft.spec -t lhcb.cern.ch=lhcb.spec -o both.squashfs
  shrinkwrap image --export /export/cvmfs -o all.squashfs
  shrinkwrap image -r sft.cern.ch -f site.conf -t sft.spec --from old.squashfs -o new.squashfs
  shrinkwrap image -r sft.cern.ch -f site.conf -t sft.spec -o sft.sif
  shrinkwrap image --export /export/cvmfs -o - | ssh node tar -x -C /scratch/cvmfs
  shrinkwrap image info sft.squashfs
  shrinkwrap image verify sft.squashfs
  apptainer exec -B sft.squashfs:/cvmfs:image-src=/ container.sif COMMAND

With several repositories an option's value NAME=VALUE is for the repository NAME alone, any other for all of them;
@fqrn@ stands for the name.
"""

_TAG = "latest"

File = Annotated[str, typer.Argument(metavar="FILE", help="The image.")]


def register(app: typer.Typer) -> None:
    images = typer.Typer(rich_markup_mode=None, add_completion=False)
    images.callback(invoke_without_command=True, epilog=_EXAMPLES)(image)
    images.command("info", epilog="\b\nExample:\n  shrinkwrap image info sft.squashfs --json\n")(info)
    images.command("verify", epilog="\b\nExample:\n  shrinkwrap image verify sft.squashfs\n")(verify)
    imagediff.register(images)
    app.add_typer(images, name="image")


def image(
    context: typer.Context,
    repos: Annotated[
        list[str] | None,
        typer.Option("-r", "--repo", metavar="FQRN", help="Repository, e.g. sft.cern.ch. Several lie side by side."),
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="The image; FILE.partial while it is being made.")
    ] = "",
    wish: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="KIND",
            help="squashfs, sif, tar, tar.gz, tar.zst, oci (a folder) or oci-archive. Default: by the end of FILE.",
        ),
    ] = "",
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: Annotated[
        list[str] | None,
        typer.Option("--storage", metavar="DIR", help="The repository's storage on local disk, instead of servers."),
    ] = None,
    proxy: opt.Proxy = None,
    external: opt.ExternalServers = None,
    external_proxy: opt.ExternalProxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    specs: Annotated[
        list[str] | None,
        typer.Option(
            "-t", "--spec-file", metavar="FILE", help="Paths to take. Several are joined. Default: FQRN.spec."
        ),
    ] = None,
    rules: Annotated[
        str, typer.Option("--spec-rules", metavar="VERSION", help="What '!/path/*' means: as in 2.14, or as in 2.12.")
    ] = "2.14",
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME", help="The snapshot of this name.")] = None,
    revision: Annotated[
        list[str] | None, typer.Option("--revision", metavar="N", help="The tagged snapshot with this number.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="DATE",
            help="The newest tagged snapshot not younger than YYYY-MM-DD or YYYY-MM-DDThh:mm:ssZ.",
        ),
    ] = None,
    root_hash: Annotated[
        list[str] | None,
        typer.Option("--root-hash", metavar="HASH", help="The snapshot with this root catalog, of the signed history."),
    ] = None,
    unsigned: opt.Unsigned = False,
    env: opt.Env = None,
    transfers: opt.Transfers = 0,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=0, max=64, help="Processes that bring objects. 0: one for each CPU."
        ),
    ] = 0,
    retries: opt.Retries = None,
    timeout: opt.Timeout = None,
    redirects: opt.Redirects = None,
    exported: Annotated[
        str,
        typer.Option(
            "--export",
            metavar="DIR",
            help="Take everything from an export there; nothing is fetched. Default: all of it.",
        ),
    ] = "",
    base: Annotated[
        str,
        typer.Option(
            "--from", metavar="FILE|DIR", help="An older image, or an export: what it holds is not fetched again."
        ),
    ] = "",
    block_size: Annotated[
        str, typer.Option("--block-size", metavar="BYTES", help="Of squashfs: 4K to 1M, a power of two.")
    ] = "128K",
    compressor: Annotated[
        str,
        typer.Option(
            "--comp",
            metavar="NAME",
            help="Of squashfs: isal (default where installed) or zlib: objects go in as they are, only large files are"
            " compressed anew; zstd: everything is (faster to read). Of OCI layers: zstd (default), gzip, none.",
        ),
    ] = "",
    level: Annotated[
        int | None,
        typer.Option("--level", metavar="N", help="Of compression. zlib 1-9 [1], isal 0-3 [1], zstd 1-19 [3]."),
    ] = None,
    arch: Annotated[
        str, typer.Option("--arch", metavar="NAME", help="What SIF and OCI images say that they are for, e.g. amd64.")
    ] = "",
    single_layer: Annotated[
        bool, typer.Option("--single-layer", help="OCI: everything in one layer, not one for each part of the tree.")
    ] = False,
    artifact: Annotated[
        bool, typer.Option("--artifact", help="OCI: an artifact for volumes, which cannot be a container's image.")
    ] = False,
    via: Annotated[
        str,
        typer.Option(
            "--via", metavar="PROGRAM", help="Have the squashfs made by squashfs-tools (mksquashfs; by sqfstar)."
        ),
    ] = "",
    via_options: Annotated[
        str, typer.Option("--via-options", metavar="TEXT", help="For that program, e.g. '-comp xz -b 1M'.")
    ] = "",
    name: Annotated[str, typer.Option("--name", metavar="TAG", help="OCI: name of the image in its layout.")] = _TAG,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust-catalog", help="Do not inflate objects to check their sizes (hashes are always checked)."
        ),
    ] = False,
    claim: Annotated[bool, typer.Option("--claim-ownership", help="Everything belongs to you.")] = False,
    keep_suid: Annotated[bool, typer.Option("--keep-suid", help="Keep set-user-id and set-group-id bits.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings are errors, found in the catalogs before anything is fetched.")
    ] = False,
    period: Annotated[
        float,
        typer.Option(
            *("-p", "--stat-period"),
            metavar="SECONDS",
            min=0,
            help="Between progress lines where there is no terminal; 0: none.",
        ),
    ] = 10.0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Make one file of what spec files select of repositories, to be mounted or bound at /cvmfs. Needs no root.

    The repository's objects go into the image as they are wherever the format allows. The same snapshot, specification
    and options give the same bytes. An interrupted run is taken up by the next one.
    """
    if context.invoked_subcommand is not None:
        return
    from shrinkwrap.cli.progress import Progress
    from shrinkwrap.image.build import build
    from shrinkwrap.image.request import ImageRequest

    if not output:
        raise UsageError("-o is missing: no image to make", hint="-o FILE.squashfs")
    if output == "-" and as_json:
        raise UsageError("the archive and --json cannot both go to standard output", hint="leave out one of them")
    more = {"architecture": arch, "single_layer": single_layer, "artifact": artifact, "tag": name}
    if via or via_options:
        more["via"] = _via(via, via_options)
    form = _form(output, wish or ("tar" if output == "-" else ""), compressor, level, more)
    parts: list[Part | ExportedPart] = []
    notes: list[str] = []
    if exported:
        given = (files, servers, storage, proxy, external, keys, blacklists, specs, tag, revision, at, root_hash, env)
        if any(given) or unsigned or base:
            raise UsageError(
                "--export takes snapshot and specification from what is exported, and fetches nothing",
                hint="leave out options of sources, snapshots, specifications and variables, and --from",
            )
        from shrinkwrap.image.exported import parts_of

        parts += parts_of(exported, tuple(repos or ()), claim=claim)
    many = None if exported else _Many(tuple(repos or ()))
    for fqrn in () if many is None else many.names:
        assert many is not None
        whence = opt.Whence(
            fqrn,
            files,
            many.of(fqrn, servers),
            many.one(fqrn, storage, "--storage"),
            proxy,
            many.of(fqrn, external),
            many.of(fqrn, keys),
            blacklists,
            external_proxy=external_proxy,
            transfers=transfers,
            retries=retries,
            timeout=timeout,
            redirects=redirects,
        )
        number = many.one(fqrn, revision, "--revision")
        pin = opt.make_pin(
            many.one(fqrn, tag, "--tag") or "",
            None if number is None else _number(number),
            many.one(fqrn, at, "--at") or "",
            many.one(fqrn, root_hash, "--root-hash") or "",
            unsigned,
        )
        made, said = _part(whence, many.of(fqrn, specs) or [f"{fqrn}.spec"], rules, pin, env, claim=claim)
        parts.append(made)
        notes += said
    request = ImageRequest(
        tuple(parts),
        output,
        form=form,
        recipe=_recipe(block_size, compressor, level) if form.squashed else _recipe("1M", "", None),
        keep_suid=keep_suid,
        strict=strict,
        trust=trust,
        workers=workers,
        base=base,
    )
    with Progress(period=period, quiet=quiet or as_json) as progress:
        for line in notes:
            progress.hooks.notice(line)
        result = build(request, progress.hooks)
    shown = len(result.notices) + len(notes)
    result.notices[:0] = notes
    if as_json:
        print_json({**result.to_json(), "exit_code": 0})
        return
    if not quiet:
        for line in result.warnings()[shown:]:
            say(f"warning: {line}")
        for line in _summary(result):
            if output == "-":
                say(line)
            else:
                print(clean(line))


def _form(output: str, wish: str, compressor: str, level: int | None, more: Mapping[str, Any]) -> Form:
    """What the image is to be. Raises UsageError."""
    from shrinkwrap.image.formats import COMPRESSIONS, LAYERED, Form, form_of

    kind, compression = form_of(output, wish)
    if not compression:
        if more["single_layer"] or more["artifact"] or more["tag"] != _TAG:
            raise UsageError("--single-layer, --artifact and --name are for OCI images", hint="-o NAME.oci")
        return Form(kind, architecture=more["architecture"], via=more.get("via"))
    if compressor and compressor not in COMPRESSIONS:
        raise UsageError(
            f"--comp {compressor}: unknown for archives and layers", hint=f"one of {', '.join(COMPRESSIONS)}"
        )
    if compressor and kind not in LAYERED and compressor != compression:
        raise UsageError(
            f"{output} is not to be compressed by {compressor}", hint="-o NAME.tar, NAME.tar.gz, NAME.tar.zst"
        )
    return Form(kind, compressor or compression, level, **more)


def _via(program: str, options: str) -> tuple[str, ...]:
    """Options of the program that is to make the image. Raises UsageError."""
    if program not in ("mksquashfs", "sqfstar"):
        raise UsageError(
            f"--via {program}: unknown" if program else "--via-options without --via", hint="--via mksquashfs"
        )
    try:
        return tuple(shlex.split(options))
    except ValueError as exc:
        raise UsageError(f"--via-options {options}: {exc}", hint="quote them as in a shell") from None


class _Many:
    """Options that several repositories share, or that are for one of them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        if not names:
            raise UsageError("no repository given", hint="-r FQRN, e.g. -r sft.cern.ch")
        self.names = names

    def of(self, fqrn: str, values: Sequence[str] | None) -> list[str]:
        """What is for one repository: its own values if there are any, else those for all."""
        own, shared = [], []
        for value in values or ():
            name, equals, rest = value.partition("=")
            if equals and name in self.names:
                if name == fqrn:
                    own.append(rest)
            else:
                shared.append(value)
        return [value.replace("@fqrn@", fqrn) for value in own or shared]

    def one(self, fqrn: str, values: Sequence[str] | None, option: str) -> str | None:
        """The same for an option that has one value. Raises UsageError if it has more."""
        found = self.of(fqrn, values)
        if len(found) > 1:
            raise UsageError(f"{option} is given {len(found)} times for {fqrn}", hint="leave out all but one")
        return found[0] if found else None


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--revision {text}: not a number")
    return int(text)


def _part(
    whence: opt.Whence, specs: list[str], rules: str, pin: object, env: Sequence[str] | None, *, claim: bool
) -> tuple[Part, list[str]]:
    """A repository of the image, and what people should know of its options. Raises UsageError, SpecError."""
    from shrinkwrap.image.request import Part
    from shrinkwrap.snapshot.repository import Pin
    from shrinkwrap.spec.grammar import read_files

    assert isinstance(pin, Pin)
    settings = whence.settings()
    spec = read_files(specs, rules=rules)
    part = Part(
        source=whence.source(settings),
        keys=() if pin.unsigned else whence.master_keys(settings),
        spec=spec,
        pin=opt.pin_of(pin, settings),
        variables=settings.environment(os.environb, opt.given_variables(env)),
        blacklist=whence.blacklist(settings),
        uid_map=settings.uid_map,
        gid_map=settings.gid_map,
        world_readable=settings.world_readable,
        claim=claim or settings.claim_ownership,
    )
    return part, [*opt.notes(settings), *spec.warnings]


def _recipe(block_size: str, compressor: str, level: int | None) -> Recipe:
    from shrinkwrap.image.squashfs.recipe import COMPRESSORS, Recipe

    # The faster one of the two that leave objects as they are, where it is installed.
    compressor = compressor or ("isal" if find_spec("isal") else "zlib")
    digits, unit = block_size, 1
    if block_size[-1:] in ("K", "k", "M", "m"):
        digits, unit = block_size[:-1], 1024 if block_size[-1] in "Kk" else 1 << 20
    if not digits.isascii() or not digits.isdigit():
        raise UsageError(f"--block-size {block_size}: not a number of bytes", hint="e.g. 131072, 128K or 1M")
    default = COMPRESSORS[compressor][2] if compressor in COMPRESSORS else 1
    return Recipe(int(digits) * unit, compressor, default if level is None else level)


def _summary(result: ImageResult) -> Iterable[str]:
    """What people read at the end."""
    from shrinkwrap.cli.output import size

    counts, sizes = result.counts, result.bytes
    for part in result.parts:
        yield (
            f"{part.fqrn} revision {part.revision}"
            + (f" ({part.tag})" if part.tag else "")
            + (
                f": {part.counts.get('files', 0)} files, {part.counts.get('dirs', 0)} directories,"
                f" {part.counts.get('symlinks', 0)} symbolic links, root hash {part.root_hash}"
            )
        )
    kept = counts["adopted"]
    yield (
        f"{size(counts.get('bytes', 0))} in {counts.get('files', 0)} files; {size(sizes.get('content', 0))} in"
        f" {counts.get('objects', 0)} distinct contents, {counts['verbatim']} of {counts['fetched']} fetched ones taken"
        f" as they are; {size(sizes['received'])} received"
        + (f", {kept} objects kept from before" if kept else "")
        + (f", {counts['reused']} contents taken from elsewhere" if counts["reused"] else "")
    )
    layers = counts.get("layers", 0)
    yield f"{result.output}: {size(result.size)} ({result.size} bytes" + (f" in {layers} layers)" if layers else ")")
    yield f"sha256 {result.sha256}" + (" (of the manifest)" if layers else "")
    yield from _how_to_use(result)


def _how_to_use(result: ImageResult) -> Iterable[str]:
    """Commands that the image is used by."""
    from shrinkwrap.image.formats import OCI, SIF, SQUASHFS, TAR
    from shrinkwrap.image.sif import data_start

    name, kind, tag = shlex.quote(result.output), result.form.kind, result.form.tag
    if kind in (SQUASHFS, SIF):
        yield f"apptainer exec -B {name}:/cvmfs:image-src=/ CONTAINER COMMAND"
        offset = f",offset={data_start()}" if kind == SIF else ""
        yield f"mount -t squashfs -o loop,ro{offset} {name} /cvmfs"
    elif kind == TAR:
        yield f"tar --xattrs --xattrs-include='*' -xpf {name} -C /cvmfs"
    else:
        place = f"oci:{name}:{tag}" if kind == OCI else f"oci-archive:{name}:{tag}"
        yield f"skopeo copy {place} docker://REGISTRY/NAME:TAG"
        if not result.form.artifact:
            yield f"podman pull {place}"
            yield "podman run --mount type=image,source=IMAGE,destination=/cvmfs CONTAINER COMMAND"


# ------------------------------------------------------------------------------------------------- info and verify


def info(file: File, as_json: opt.Json = False) -> None:
    """Tell what an image holds and how it was made, from what it says of itself."""
    from shrinkwrap.image.inspect import describe, open_image

    with open_image(file) as opened:
        described = describe(opened, file)
    if as_json:
        print_json({**described.to_json(), "exit_code": 0})
        return
    for line in _described(described):
        print(clean(line))


def _described(one: Described) -> Iterable[str]:
    from shrinkwrap.cli.output import size

    yield (
        f"{one.path}: squashfs, {size(one.size)}, {one.inodes} inodes,"
        f" blocks of {one.block_size // 1024} KiB, {one.compressor}"
    )
    if one.made is None:
        yield "made by another tool: there is no /.provenance/image.json in it"
        return
    recipe = one.made.recipe
    how = shlex.join(recipe["via"]) if "via" in recipe else f"level {recipe['level']}"
    yield f"made by shrinkwrap {one.made.tool}, from a {one.made.source}; {recipe['library']}, {how}"
    for part in one.statements:
        yield (
            f"{part.fqrn} revision {part.revision}" + (f" ({part.tag})" if part.tag else "") + f":"
            f" {part.entries} entries, {size(part.counts.get('bytes', 0))}"
            + ("" if part.signed else ", not vouched for by any signature")
        )
        yield f"  root hash {part.root.digest}"
        yield f"  listing sha256 {part.listing_sha256}"


def verify(file: File, as_json: opt.Json = False) -> None:
    """Read all of an image, and hold it against what it says of itself and the hashes of the repository's objects."""
    from shrinkwrap.image.inspect import open_image
    from shrinkwrap.image.inspect import verify as check

    with open_image(file) as opened:
        found = check(opened)
    counts = found.counts
    if as_json:
        value = {"command": "image verify", "path": file, "counts": counts, "differences": found.differences}
        if not found.number:
            print_json({**value, "reason": "sound", "exit_code": 0})
            return
        print_json(value)
    if found.number:
        if not as_json:
            for line in found.differences:
                print(clean(line))
        raise VerificationFailed(
            f"{file}: {found.number} difference{'s' if found.number != 1 else ''}",
            hint="copy the image again, or make it anew",
        )
    print(
        f"{clean(file)}: sound; {counts.get('files', 0)} files, {counts.get('contents', 0)} distinct contents,"
        f" {counts.get('proved', 0)} of them proved by the repository's own hashes"
    )
