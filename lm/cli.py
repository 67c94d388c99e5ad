"""The command `lm`. Each class is a subcommand: its fields are the flags, `run` does the work.

Heavy imports wait until a command runs, so that help and errors come at once.
"""

import codecs
import dataclasses
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro
from tyro import MISSING, MISSING_NONPROP
from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from lm.config import ModelConfig, TrainConfig, load_config
from lm.generate import SamplingConfig
from tokenizer.errors import InputError

END_OF_TEXT = "<|endoftext|>"
Backend: TypeAlias = Literal["jax", "torch"]


@dataclass(frozen=True)
class Stories:
    """Write children's stories from a grammar: a corpus without a download, whose exact entropy is known."""

    out: Path
    """Text file to write; FILE.json beside it records its size and information in nats."""
    bytes: int = 10_000_000
    """Size of the text; the last story is written to its end."""
    seed: int = 0
    """Seed of the stories. Give training and validation text different ones."""

    def run(self) -> None:
        from lm.stories import write_stories

        info = write_stories(self.out, self.bytes, self.seed, progress=sys.stderr.isatty())
        print(
            f"{self.out}: {info.documents:,} stories, {info.bytes:,} bytes, "
            f"{info.nats / info.bytes:.4f} nats per byte"
        )


@dataclass(frozen=True)
class TokenizerTrain:
    """Train a byte-level BPE tokenizer on a text file."""

    input: Path
    """Text file, UTF-8."""
    out: Path
    """Folder to write: vocab.json and merges.txt in GPT-2's format, and the special tokens."""
    vocab_size: int
    """Number of tokens: the special tokens, the 256 bytes, and the merges."""
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """Texts that are always one token."""
    pattern: str = "gpt2"
    """How text is cut into pre-tokens: gpt2, cl100k, o200k, or a regular expression."""

    def run(self) -> None:
        from lm.files import refuse_existing
        from tokenizer import Tokenizer
        from tokenizer.inspect import printable
        from tokenizer.train_bpe import train

        refuse_existing(self.out)
        result = train(
            self.input,
            self.vocab_size,
            self.special_tokens,
            pattern=self.pattern,
            progress=sys.stderr.isatty(),
        )
        _save_tokenizer(Tokenizer(result.vocab, result.merges, self.special_tokens, self.pattern), self.out)
        learned = sorted((left + right for left, right in result.merges), key=len, reverse=True)
        print(
            f"{self.out}: {len(result.vocab):,} tokens\n"
            f"longest tokens   {', '.join(repr(printable(token)) for token in learned[:5])}\n"
            f"compression      {result.bytes_per_token:.3f} bytes per token of {self.input}\n"
            f"seconds          {', '.join(f'{phase} {s:.2f}' for phase, s in result.seconds.items())}\n"
            f"peak memory      {result.peak_memory / 2**20:.0f} MiB"
        )


@dataclass(frozen=True)
class TokenizerEncode:
    """Encode a text file into a .npy file of token ids."""

    tokenizer: Path
    """Folder of a tokenizer, from lm tokenizer train."""
    input: Path
    """Text file, UTF-8."""
    out: Path
    """Token file to write; FILE.npy.json beside it records the tokenizer, the bytes, and known nats."""

    def run(self) -> None:
        from lm.data import file_sha256, read_sidecar, sidecar_path
        from lm.files import write_json
        from tokenizer import Tokenizer
        from tokenizer.encode_corpus import encode_corpus

        text_facts = read_sidecar(self.input)
        tokenizer = Tokenizer.load(self.tokenizer)
        result = encode_corpus(self.input, tokenizer, self.out, progress=sys.stderr.isatty())
        facts = {
            "tokenizer": os.path.relpath(self.tokenizer, self.out.parent),
            "tokenizer_sha256": tokenizer.sha256,
            "tokens": result.num_tokens,
            "bytes": result.num_bytes,
        }
        # The facts of an earlier text of that name would make a false floor.
        if "nats" in text_facts and text_facts.get("sha256") == file_sha256(self.input):
            facts["nats"] = text_facts["nats"]
        write_json(sidecar_path(self.out), facts)
        print(
            f"{self.out}: {result.num_tokens:,} tokens from {result.num_bytes:,} bytes, "
            f"{result.num_bytes / result.num_tokens:.3f} bytes per token"
        )


@dataclass(frozen=True)
class TokenizerInspect:
    """Show the tokens of a text, in turning colours, each with its id."""

    text: Annotated[str, Positional]
    """Text to encode."""
    tokenizer: Path
    """Folder of a tokenizer, from lm tokenizer train."""

    def run(self) -> None:
        from tokenizer import Tokenizer
        from tokenizer.inspect import coloured

        print(coloured(Tokenizer.load(self.tokenizer), self.text))


@dataclass(frozen=True)
class TokenizerExport:
    """Write a tokenizer as a tokenizer.json for the library tokenizers, which then encodes the same."""

    tokenizer: Path
    """Folder of a tokenizer, from lm tokenizer train."""
    out: Path
    """File to write."""

    def run(self) -> None:
        from lm.files import refuse_existing
        from tokenizer import Tokenizer

        refuse_existing(self.out)
        Tokenizer.load(self.tokenizer).save_tokenizers_json(self.out)
        print(self.out)


@dataclass(frozen=True)
class TokenizerImport:
    """Read a tokenizer.json of the library tokenizers (byte-level BPE with a known pattern)."""

    input: Path
    """The tokenizer.json."""
    out: Path
    """Folder to write."""

    def run(self) -> None:
        from lm.files import refuse_existing
        from tokenizer import Tokenizer

        refuse_existing(self.out)
        tokenizer = Tokenizer.from_tokenizers_json(self.input)
        _save_tokenizer(tokenizer, self.out)
        print(f"{self.out}: {tokenizer.vocab_size:,} tokens")


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    from lm.files import published

    with published(folder) as temporary:
        tokenizer.save(temporary)


@dataclass(frozen=True)
class TokenizerCommand:
    """Train a tokenizer, encode text with one, look at it, or exchange it with the library tokenizers."""

    command: (
        Annotated[TokenizerTrain, subcommand("train", prefix_name=False)]
        | Annotated[TokenizerEncode, subcommand("encode", prefix_name=False)]
        | Annotated[TokenizerInspect, subcommand("inspect", prefix_name=False)]
        | Annotated[TokenizerExport, subcommand("export", prefix_name=False)]
        | Annotated[TokenizerImport, subcommand("import", prefix_name=False)]
    )

    def run(self) -> None:
        self.command.run()


@dataclass(frozen=True)
class Train:
    """Train a model. Every setting of the config file can be overridden by its flag."""

    backend: Backend
    """Framework to train with."""
    train: tuple[Path, ...]
    """Token files to train on, from lm tokenizer encode, or globs such as 'stories/*.npy': one corpus."""
    val: Path
    """Token file to evaluate on."""
    out: Path
    """Folder of the run, to be made."""
    settings: Annotated[TrainConfig, arg(name="")]
    config: Path | None = None
    """TOML file of settings, such as those in configs/; without one, give the model's by flags."""
    weights: tuple[float, ...] = ()
    """Share of the training windows from each of --train; if not given, each gives windows by its size."""
    init_from: Path | None = None
    """Start from the weights of this run or checkpoint (fine-tuning), not from the seed's."""
    resume: bool = False
    """Go on from the newest intact checkpoint in --out, with otherwise the same command."""
    profile: bool = False
    """Write the framework's own trace of a few steps to OUT/profile."""

    def run(self) -> None:
        from lm import checkpoint
        from lm.run import Inputs
        from lm.train import train

        inputs = Inputs(self.train, self.val, self.weights, self.init_from)
        if train(self.settings, self.backend, inputs, self.out, self.resume, self.profile):
            print(f"{checkpoint.latest(self.out)}: done")
        else:
            command = shlex.join([a for a in sys.argv[1:] if a != "--resume"])
            print(f"stopped and saved; to go on: lm {command} --resume")


@dataclass(frozen=True)
class Trained:
    """A trained model: what lm eval and lm generate start from."""

    checkpoint: Path
    """Folder of a run, for its newest checkpoint, or of one checkpoint."""
    backend: Backend | None = None
    """Framework to run in; the one that trained it if not given."""
    device: str = "cpu"
    """Where to compute: cpu, or cuda where there is a GPU."""
    threads: int | None = None
    """CPU threads; if not given, the framework's own choice."""
    best: bool = False
    """Take the run's checkpoint of the lowest validation loss, not the newest."""

    @property
    def path(self) -> Path:
        """The checkpoint."""
        from lm import checkpoint

        return (checkpoint.best if self.best else checkpoint.latest)(self.checkpoint)

    def load(self) -> tuple[TrainConfig, Any, Any]:
        """The model's config, its backend, and its state without the optimizer's."""
        from lm import run
        from lm.backend import load

        path = self.path
        config, facts = run.load_facts(path)
        config = dataclasses.replace(config, device=self.device, threads=self.threads)
        backend = load(self.backend or facts["backend"], config)
        return config, backend, run.load_state(path, config, backend, with_optimizer=False)


@dataclass(frozen=True)
class Eval(Trained):
    """Print the loss of a model on a whole token file."""

    tokens: Path = MISSING
    """Token file, from lm tokenizer encode with the model's tokenizer."""

    def run(self) -> None:
        from lm import run
        from lm.data import open_tokens, read_sidecar
        from lm.evaluate import bits_per_byte, entropy_floor, evaluate

        _, run_facts = run.load_facts(self.path)
        run.refuse_other_tokenizer(self.tokens, run_facts["tokenizer_sha256"], str(self.checkpoint))
        config, backend, state = self.load()
        tokens = open_tokens(self.tokens, config.model.vocab_size, config.model.context_length)
        facts = read_sidecar(self.tokens)
        result = evaluate(backend.make_eval_step(config), state, tokens, config)
        print(f"loss           {result.loss:.4f} nats per token over {result.num_targets:,} tokens")
        floor = entropy_floor(facts)
        if floor is not None:
            print(f"entropy floor  {floor:.4f} nats per token, which no model can beat")
        print(f"perplexity     {result.perplexity:.3f}")
        bits = bits_per_byte(result, facts)
        if bits is not None:
            print(f"bits per byte  {bits:.4f}")
        print(f"accuracy       {result.accuracy:.2%}")


@dataclass(frozen=True)
class Generate(Trained):
    """Continue a prompt, up to the end of the text."""

    prompt: str = MISSING
    """Text to continue; if empty, the start of a new text."""
    sampling: Annotated[SamplingConfig, arg(name="")] = field(default_factory=SamplingConfig)

    def run(self) -> None:
        from lm import run
        from lm.generate import generate

        tokenizer = run.load_tokenizer(self.checkpoint)
        config, backend, state = self.load()
        stop = tokenizer.special_tokens.get(END_OF_TEXT)
        prompt = tokenizer.encode(self.prompt or END_OF_TEXT)
        steps = backend.make_prefill(config), backend.make_decode_step(config)
        # A character may be spread over several tokens: it is shown when it is whole.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens = generate(*steps, state, config, prompt, self.sampling, stop)
        print(self.prompt, end="", flush=True)
        try:
            for token in tokens:
                print(decoder.decode(tokenizer.decode_bytes([token])), end="", flush=True)
        except KeyboardInterrupt:
            pass
        print(decoder.decode(b"", final=True))


@dataclass(frozen=True)
class Runs:
    """List the runs in a folder: their state and last numbers."""

    folder: Positional[Path] = Path("runs")
    """Folder that holds runs, at any depth."""

    def run(self) -> None:
        from lm.report import list_runs

        print(list_runs(self.folder))


@dataclass(frozen=True)
class Report:
    """Write a page that compares runs: curves, numbers, differences, samples. It needs no network."""

    runs: Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path = Path("report.html")
    """HTML file to write."""

    def run(self) -> None:
        from lm.report import write_report

        if not self.runs:
            raise InputError("no run is given: lm report RUN [RUN ...]")
        write_report(list(self.runs), self.out)
        print(f"{self.out}: {len(self.runs)} runs; open it in a browser")


@dataclass(frozen=True)
class Data:
    """Download the texts that the course trains on; a broken download goes on where it was."""

    action: Positional[Literal["get"]]
    """What to do."""
    dataset: Positional[Literal["tinystories", "owt"]]
    """TinyStories (2.2 GB), or the course's sample of OpenWebText (12 GB unpacked)."""
    out: Path = Path("data")
    """Folder to write to."""
    mirror: str | None = None
    """Address to use in place of https://huggingface.co/datasets."""

    def run(self) -> None:
        from lm.download import get_dataset

        get_dataset(self.dataset, self.out, self.mirror)


@dataclass(frozen=True)
class Parity:
    """Measure how far apart torch, JAX and a float64 oracle are, layer by layer; exit with 1 if over budget."""

    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Type of the activations."""
    cases: int = 12
    """Random cases of each layer, of which the worst is shown."""
    json: Path | None = None
    """File to write the table to as JSON."""
    plot: Path | None = None
    """PNG file to draw the table to, as a heat map of the errors."""

    def run(self) -> None:
        from lm.files import published, refuse_existing, write_json
        from lm.parity.run import as_json, plot, run_parity

        if self.cases < 1:
            raise InputError(f"cases is {self.cases}: give 1 or more")
        for file in (self.json, self.plot):
            if file:
                refuse_existing(file)
        errors = run_parity(self.dtype, self.cases, show=True)
        if self.json:
            write_json(self.json, as_json(errors))
        if self.plot:
            with published(self.plot) as temporary:
                plot(errors, self.dtype, temporary)
        over = sum(not error.passed for error in errors)
        print(f"{over or 'none'} of {len(errors)} comparisons over budget, in {self.dtype}")
        sys.exit(1 if over else 0)


@dataclass(frozen=True)
class Demo:
    """Everything once: text, tokenizer, the same model trained in torch and in JAX, text from it, a report."""

    out: Path = Path("runs/demo")
    """Folder to write."""
    input: Path | None = None
    """A text file of your own in place of the stories."""

    def run(self) -> None:
        from lm.demo import demo

        demo(self.out, self.input)


def _train_defaults(arguments: Sequence[str]) -> Any:
    """The defaults of `lm train`: the settings of its --config, where there is one."""
    words = [word for a in arguments for word in (a.split("=", 1) if a.startswith("--config=") else [a])]
    if "--config" not in words[:-1]:
        return MISSING_NONPROP
    path = Path(words[len(words) - words[::-1].index("--config")])
    settings = load_config(path)
    if settings.model.d_ff == ModelConfig.default_d_ff(settings.model.d_model):
        # Left open, for a flag that changes d_model.
        object.__setattr__(settings.model, "d_ff", None)
    return Train(MISSING, MISSING, MISSING, MISSING, settings)


def parse(arguments: Sequence[str]) -> Any:
    """Turn the command line into one of the classes above.

    Raises:
        InputError: a flag is wrong; in one line, where tyro draws a box.
    """
    train_defaults = _train_defaults(arguments) if arguments[:1] == ["train"] else MISSING_NONPROP
    commands = (
        Annotated[Stories, subcommand("stories", prefix_name=False)]
        | Annotated[TokenizerCommand, subcommand("tokenizer", prefix_name=False)]
        | Annotated[Train, subcommand("train", prefix_name=False, default=train_defaults)]
        | Annotated[Eval, subcommand("eval", prefix_name=False)]
        | Annotated[Generate, subcommand("generate", prefix_name=False)]
        | Annotated[Runs, subcommand("runs", prefix_name=False)]
        | Annotated[Report, subcommand("report", prefix_name=False)]
        | Annotated[Data, subcommand("data", prefix_name=False)]
        | Annotated[Parity, subcommand("parity", prefix_name=False)]
        | Annotated[Demo, subcommand("demo", prefix_name=False)]
    )
    stderr = io.StringIO()
    try:
        with redirect_stderr(stderr):
            return tyro.cli(
                commands,  # type: ignore[arg-type]
                prog="lm",
                description="One Transformer language model, written twice: in PyTorch and in JAX.",
                args=arguments,
                config=(OmitSubcommandPrefixes,),
            )
    except SystemExit as exit:
        if exit.code in (0, None):
            raise
        raise InputError(f"{_one_line(stderr.getvalue())}; see lm --help") from None


def _one_line(box: str) -> str:
    """What a box of tyro's says, without its frame, headline and quotations from the help."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:-1]]
    said = []
    for section in "\n".join(lines).split("─\n"):
        first, *others = section.strip("─\n").split("\n")
        if first.startswith("Missing from"):
            said.append(first + " " + ", ".join(line.split()[0] for line in others if line.startswith("--")))
        elif not first.startswith(("For full helptext", "Argument helptext")):
            said.append(" ".join([first, *others]))
    return re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", "; ".join(said))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for what the user got wrong, 130 for Ctrl-C."""
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()
    except InputError as error:
        message = str(error)
    except BrokenPipeError:
        # The reader of our output has gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        message = f"{name}{error.strerror or error}"
    except KeyboardInterrupt:
        return 130
    else:
        return 0
    print(f"lm: {' '.join(message.split())}", file=sys.stderr)
    return 2
