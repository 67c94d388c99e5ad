"""The command `lm generate`."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lm.cli.settings import read_text
from lm.cli.trained import Trained
from lm.config import TrainConfig
from lm.text.sampling import SamplingConfig
from tokenizer.errors import InputError

if TYPE_CHECKING:
    from lm.text.complete import Completion


@dataclass(frozen=True)
class Generate(Trained):
    """Write text with a trained model, from one or more prompts.

    A decoder continues each prompt. An encoder-decoder reads it as the prefix and writes the target.
    """

    prompt: tuple[str, ...] = ()
    """Texts to continue. If not given: an empty prompt, which starts a new text."""
    prompt_file: Path | None = None
    """File with one more text to continue, or - for standard input. A newline at the end is dropped."""
    ids: bool = False
    """Read each prompt as token ids, such as 1 2 3, and print token ids. No tokenizer is needed."""
    sampling: Annotated[SamplingConfig, arg(name="")] = field(default_factory=SamplingConfig)
    stop_token: str | None = None
    """Special token that ends a continuation; an empty text means none. If not given: the model's own end tokens."""
    json: bool = False
    """Print each continuation as a line of JSON: text, token ids, their log-probabilities, and why it ended.
    With --ids, the prompt is a list, and there is no text."""
    exact: bool = False
    """Compute log-probabilities whose bits do not depend on the other texts, and which lm score --exact repeats.
    A text then takes about twice the time."""
    explain_ties: bool = False
    """Report on standard error if two tokens were within rounding error, so that the other backend may differ."""

    def run(self) -> None:
        from lm.accounting.limits import refuse_generation
        from lm.run.facts import load_facts
        from lm.run.loading import load_ends, load_tokenizer
        from lm.text.complete import Completion, complete, opening
        from lm.text.exact import make_exact
        from lm.text.ids import read_ids

        tokenizer = None if self.ids else load_tokenizer(self.path, self.tokenizer)
        ends = load_ends(self.path, tokenizer)
        ends.stop_ids(self.stop_token, tokenizer)
        prompts = list(self.prompt)
        if self.prompt_file is not None:
            prompts.append(read_text(self.prompt_file).removesuffix("\n"))
        config, _ = load_facts(self.path, verify=False)
        refuse_generation(config, len(prompts or [""]), self.sampling)
        completions = [
            Completion(read_ids(prompt) if self.ids else prompt, tokenizer, self.sampling.stop)
            for prompt in prompts or [""]
            for _ in range(self.sampling.samples)
        ]
        config, backend, state = self.load()
        if config.model.architecture == "encoder":
            raise InputError(
                f"{self.checkpoint}: an encoder writes no text; give the run of a decoder or an encoder-decoder"
            )
        steps = (
            make_exact(backend, config)[1:]
            if self.exact
            else (backend.make_prefill(config), backend.make_decode_step(config))
        )
        texts = complete(
            steps, state, config, tokenizer, completions, self.sampling, self.stop_token, self.json, ends
        )
        streamed = len(completions) == 1 and not self.json and not self.ids
        shown = False
        try:
            for completion, text in texts:
                if streamed:
                    # Print the prompt with the first text: by then a prompt that is too long has been refused.
                    print(text if shown else opening(completion, config) + text, end="", flush=True)
                    shown = True
        except KeyboardInterrupt:
            if streamed:
                print(completions[0].finish(), end="")
        if streamed:
            print()
        else:
            self._print(completions, config)
        if self.explain_ties:
            self._explain(completions)

    def _print(self, completions: "list[Completion]", config: TrainConfig) -> None:
        for i, completion in enumerate(completions):
            completion.finish()
            prompt, sample = divmod(i, self.sampling.samples)
            if self.json:
                line = {
                    "prompt": completion.prompt,
                    "sample": sample,
                    **({} if self.ids else {"text": completion.text}),
                    "token_ids": [drawn.token for drawn in completion.drawn],
                    "log_probabilities": [drawn.log_probability for drawn in completion.drawn],
                    "ending": completion.ending,
                }
                print(json.dumps(line, ensure_ascii=False))
            else:
                head = f"--- prompt {prompt}, sample {sample}\n" if len(completions) > 1 else ""
                print(head + self._shown(completion, config))

    def _shown(self, completion: "Completion", config: TrainConfig) -> str:
        """Return a continuation after its prompt, as text or as token ids."""
        from lm.text.complete import opening
        from lm.text.ids import show_ids

        if not self.ids:
            return opening(completion, config) + completion.text
        is_pair = config.model.architecture == "encoder_decoder"
        return show_ids(
            [*([] if is_pair else completion.prompt), *(drawn.token for drawn in completion.drawn)]
        )

    def _explain(self, completions: "list[Completion]") -> None:
        ties = [(i, at, d) for i, c in enumerate(completions) for at, d in enumerate(c.drawn) if d.tie]
        for i, at, drawn in ties:
            assert drawn.tie is not None
            print(
                f"lm: continuation {i}, token {at}: {drawn.tie.token} before {drawn.tie.runner_up} by "
                f"{drawn.tie.gap:.1e} of a logit, which is within rounding error",
                file=sys.stderr,
            )
        if not ties:
            print("lm: no two tokens were within rounding error", file=sys.stderr)
