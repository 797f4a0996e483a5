"""Generator: a domain, its codec and the transformer as one thing to train, sample, save and load."""

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen3d import checkpoint
from gen3d.config import from_dict, to_dict
from gen3d.diffusion.evidence import evidence
from gen3d.diffusion.guidance import Autoguidance, ClassifierFree
from gen3d.diffusion.objective import diffusion_loss
from gen3d.diffusion.samplers import (
    SAMPLERS,
    Callback,
    Denoiser,
    KnownRegion,
    ModelDenoiser,
    SamplingConfig,
    Tied,
    partial_start,
    sampling_settings,
    schedule,
)
from gen3d.domains.base import ChannelGroup, Layout
from gen3d.draws import Draws, numbers
from gen3d.errors import Gen3dError, TooFewValid
from gen3d.generator_config import GeneratorConfig, check_fit, make_domain, under_other_name
from gen3d.locate import locate
from gen3d.moments import Moments
from gen3d.tokens import Tokens, centred
from gen3d.types import Conditions
from gen3d.version import __version__

MAX_ROUNDS = 50
"""How many times the wanted number of valid samples is drawn before giving up."""


class Generator(nn.Module):
    """A trained, or trainable, source of native objects.

    Attributes:
        config: what it was built from.
        domain: the kind of thing it makes.
        codec: the map between native data and latent tokens.
        core: the transformer, or the domain's module around it.
        latent_mean: (C,) mean of the latent channels over the training data.
        latent_std: (C,) their standard deviation.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        """Build an untrained generator.

        Raises:
            Gen3dError: no such domain, or a transformer that does not fit it.
        """
        super().__init__()
        self.config = config
        self.domain = make_domain(config.domain, config.domain_config)
        self.codec = self.domain.codec
        check_fit(config, self.domain)
        self.core = self.domain.network(config.model)
        self.register_buffer("latent_mean", torch.zeros(self.codec.channels))
        self.register_buffer("latent_std", torch.ones(self.codec.channels))

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: str | torch.device | None = None, *, domain: str | None = None
    ) -> "Generator":
        """Load a generator, ready to sample.

        Args:
            source: the name of a domain whose weights ship with gen3d, a checkpoint folder, or the id
                "owner/name" of a repository on the Hugging Face hub.
            device: where to put it; by default the first GPU, else the CPU.
            domain: refuse checkpoints of any other domain.

        Raises:
            Gen3dError: there is nothing to load there, or it is damaged or does not fit.
        """
        folder = locate(source)
        tensors, values = checkpoint.read(folder)
        config = from_dict(GeneratorConfig, {k: v for k, v in values.items() if not k.endswith("_version")})
        if domain not in (None, config.domain):
            config = under_other_name(config, domain, folder)
        generator = cls(config)
        checkpoint.fill(generator, tensors, folder)
        return generator.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        card: str | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a checkpoint folder, or replace the one there.

        Args:
            folder: where.
            dtype: precision in which parameters are stored; buffers keep theirs.
            card: the text of README.md; by default a short one made from the configuration.
            weights: tensors to write in place of its own of the same names.

        Raises:
            Gen3dError: the folder cannot be written; what it held stays readable.
        """
        tensors = {**self.state_dict(), **(weights or {})}
        for name, _ in self.named_parameters():
            tensors[name] = tensors[name].to(dtype)
        config = {"gen3d_version": __version__, **to_dict(self.config)}
        plain = checkpoint.plain_card(self.config.domain, sum(p.numel() for p in self.parameters()))
        checkpoint.write(folder, tensors, config, card or plain)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        dtype: torch.dtype = torch.float32,
        card: str | None = None,
    ) -> str:
        """Upload a checkpoint to the Hugging Face hub, to a new repository if need be; returns its URL."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype, card=card)
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        return str(url)

    @property
    def device(self) -> torch.device:
        return self.latent_mean.device

    def codec_loss(self, batch: Any, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The codec's reconstruction objective of a batch, and its parts."""
        return self.codec.loss(batch, draws)

    def prior_loss(self, batch: Any, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The transformer's objective on the normalised latents of a batch, and its parts."""
        with torch.no_grad():
            tokens = self.codec.encode(batch, draws)
            tokens = tokens.with_values(self.normalise(tokens.x))
        return diffusion_loss(self.core, tokens, self.domain.conditions(batch), self.config.diffusion, draws)

    @torch.no_grad()
    def fit_latents(self, batches: Iterable[Any]) -> None:
        """Set `latent_mean` and `latent_std` from the real tokens of `batches`.

        Channels of one group of the codec (`Codec.channel_groups`) share the root mean square of their
        deviations. A channel that never varies is left at its size.
        """
        if not self.codec.normalised:
            return
        moments = Moments(self.codec.channels, self.device)
        for tokens in map(self.codec.encode, batches):
            moments.add(tokens.x[tokens.mask])
        groups = self.codec.channel_groups or (ChannelGroup(1),) * self.codec.channels
        self.latent_mean.copy_(moments.mean)
        self.latent_std.copy_(moments.units([g.width for g in groups], [g.scale for g in groups]))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        shard: tuple[int, int] = (0, 1),
        batch_size: int = 256,
        first: int = 0,
        best_of: int = 1,
        progress: bool | None = None,
        callback: Callback | None = None,
        **domain_options: Any,
    ) -> list[Any]:
        """Generate native objects of the domain.

        Args:
            n: number of samples, over all shards.
            seed: sample i depends on (seed, i) alone, whatever the shard and the batch.
            steps, guidance, sampler: override the checkpoint's defaults.
            shard: (i, k) makes the i-th of k contiguous parts of the n samples.
            batch_size: samples carried at a time.
            first: number of the first sample, to go on where another call ended.
            best_of: candidates of each sample; the one that is kept is that which what was asked for explains
                best (`gen3d.diffusion.evidence`), by the model's own errors.
            progress: show a progress bar; None for only on a terminal.
            callback: called after every sampler step with a `SamplerState`; its rows are the batch's
                samples, ordered by size.
            **domain_options: fields of the domain's `SampleOptions`.

        Returns:
            The objects in order of their number; None where the domain could not make one.

        Raises:
            Gen3dError: a value out of range, or an option that the checkpoint cannot fulfil.
        """
        from gen3d.progress import tqdm

        for name, value in (("batch_size", batch_size), ("best_of", best_of)):
            if value < 1:
                raise Gen3dError(f"{name} is {value}; at least 1")
        index = first + numbers(n, shard)
        settings = sampling_settings(self.config.sampling, steps, guidance, sampler)
        options = from_dict(self.domain.SampleOptions, domain_options)
        disable = None if progress is None else not progress
        total = math.ceil(len(index) / batch_size) * settings.steps * best_of
        with tqdm(total=total, unit="step", desc=self.config.domain, disable=disable) as bar:
            watched = _watch(bar, callback)
            return self._sample(Draws(seed, index), options, settings, batch_size, best_of, watched)

    def sample_valid(
        self,
        n: int,
        *,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        progress: bool | None = None,
        **settings: Any,
    ) -> tuple[list[Any], int]:
        """Draw until `n` samples are valid by the domain's quick check.

        Args:
            n: number of valid samples, over all shards.
            seed: as of `sample`; the samples are the first valid ones of an endless numbered sequence.
            shard: (i, k) searches its own part of that sequence.
            progress: as of `sample`.
            **settings: further arguments of `sample`.

        Returns:
            The valid objects, and how many were drawn for them.

        Raises:
            TooFewValid: MAX_ROUNDS times as many were drawn without finding enough; it holds those found.
        """
        part = numbers(n, shard)
        wanted = len(part)
        if not wanted:
            return [], 0
        first, limit = MAX_ROUNDS * int(part[0]), MAX_ROUNDS * wanted
        valid: list[Any] = []
        drawn = 0
        while drawn < limit:
            # As many as it takes at the rate so far, and some more: another round costs as many steps.
            rate = (len(valid) + 1) / (drawn + 1)
            count = min(math.ceil(1.1 * (wanted - len(valid)) / rate), limit - drawn)
            for made in self.sample(count, seed=seed, progress=progress, first=first + drawn, **settings):
                drawn += 1
                if self.domain.valid(made):
                    valid.append(made)
                if len(valid) == wanted:
                    return valid, drawn
        raise TooFewValid(valid, drawn, wanted)

    @torch.no_grad()
    def edit(
        self,
        objects: Sequence[Any],
        start: float = 0.5,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
    ) -> list[Any]:
        """Variations of native objects: their latents are noised to time `start` and sampled from there.

        SDEdit (arXiv 2108.01073). Results stand in the frame that the domain generates in.

        Args:
            objects: what to vary.
            start: 0 begins from noise alone; the nearer to 1, the closer the results stay to `objects`.
            seed: the noise of object i depends on (seed, i) alone.
            steps, guidance, sampler: override the checkpoint's defaults; of the steps, those after `start`
                are taken.

        Returns:
            One result for each object; None where the domain could not make one.

        Raises:
            Gen3dError: `start` is out of range, or the domain does not take its objects back.
        """
        settings = sampling_settings(self.config.sampling, steps, guidance, sampler)
        if not objects:
            return []
        batch = self.domain.collate(self.domain.items(objects), None).to(self.device)
        tokens = self.codec.encode(batch)
        layout = self.domain.layout_of(batch, tokens).to(self.device)
        taken = max(1, round(settings.steps * (1 - start)))
        times = schedule(taken, settings.shift, settings.spacing, start)
        draws = Draws(seed, torch.arange(len(objects), device=self.device))
        clean = tokens.with_values(self.normalise(tokens.x)).x
        noised = partial_start(clean, self.config.diffusion.path, start, draws) * tokens.mask[..., None]
        if tokens.ties is not None:
            noised = tokens.ties.same(noised)
        rows = torch.arange(len(objects), device=self.device)
        result = self.run_sampler(noised, times, layout, rows, draws, settings, None)
        return self.finish(result, layout, rows)

    def _sample(
        self,
        draws: Draws,
        options: Any,
        settings: SamplingConfig,
        batch_size: int,
        best_of: int,
        callback: Callback,
    ) -> list[Any]:
        """The samples of `draws`, in order."""
        if not len(draws.index):
            return []
        layout = self.domain.layout(options, draws).to(self.device)
        draws = Draws(draws.seed, draws.index.to(self.device))
        order = torch.argsort(layout.mask.sum(1), stable=True)
        objects: list[Any] = [None] * len(order)
        was_training = self.training
        self.eval()
        for rows in order.split(batch_size):
            part, chosen = layout.select(rows), draws.select(rows)
            tokens = self._drawn(part, rows, chosen, settings, callback)
            if best_of > 1:
                tokens = self._best(tokens, part, rows, chosen, settings, best_of, callback)
            for row, made in zip(rows.tolist(), self.finish(tokens, part, rows), strict=True):
                objects[row] = made
        self.train(was_training)
        return objects

    def _drawn(
        self, layout: Layout, rows: Tensor, draws: Draws, settings: SamplingConfig, callback: Callback
    ) -> Tokens:
        """Unnormalised latent tokens of one batch, from noise."""
        times = schedule(settings.steps, settings.shift, settings.spacing)
        noise = self._noise(layout, draws, "sampling")
        return self.run_sampler(noise, times, layout, rows, draws, settings, callback)

    def _noise(self, layout: Layout, draws: Draws, stream: str) -> Tensor:
        """Noise (B, N, C) of tokens that are laid out so."""
        # Noise of token n is the n-th of its sample's stream, so that cropping padding changes none.
        noise = draws.normal(stream, layout.mask.shape[1], self.codec.channels) * layout.mask[..., None]
        if self.config.diffusion.centred_noise:
            noise = centred(noise, layout.mask)
        return noise if layout.ties is None else layout.ties.same(noise)

    def _best(
        self,
        first: Tokens,
        layout: Layout,
        rows: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        best_of: int,
        callback: Callback,
    ) -> Tokens:
        """For each sample the one of `best_of` candidates that what was asked for explains best."""
        free = {name: value for name, value in layout.conditions.items() if name in layout.unguided}
        told, untold = (
            replace(self._network(layout, given), remember=False) for given in (layout.conditions, free)
        )

        def score(candidate: Tokens) -> Tensor:
            x = candidate.with_values(self.normalise(candidate.x)).x
            noise = partial(self._noise, layout, draws)
            found = evidence(told, untold, x, layout.mask, self.config.diffusion.path, noise)
            return found.nan_to_num(nan=-torch.inf)  # what diverged is never the best

        best, highest = first, score(first)
        if not bool(highest.any()):
            raise Gen3dError(
                f"best_of is {best_of}; it needs what the model can be told, a prompt, a property or a class"
            )
        for number in range(1, best_of):
            other = self._drawn(layout, rows, draws.again(number), settings, callback)
            found = score(other)
            better = found > highest
            best = best.with_values(torch.where(better[:, None, None], other.x, best.x))
            highest = torch.where(better, found, highest)
        return best

    def run_sampler(
        self,
        x: Tensor,
        times: Tensor,
        layout: Layout,
        rows: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        callback: Callback | None,
    ) -> Tokens:
        """Unnormalised latent tokens of one batch, which is `rows` of what the domain laid out."""
        denoise = self.denoiser(layout, layout.conditions, settings, times)
        kept = {name: value for name, value in layout.conditions.items() if name in layout.unguided}
        if settings.guidance != 1 and len(kept) < len(layout.conditions):
            free = self.denoiser(layout, kept, settings, times)
            denoise = ClassifierFree(denoise, free, settings.guidance, settings.guidance_interval)
        if layout.known is not None and layout.known_mask is not None:
            denoise = KnownRegion(denoise, self.normalise(layout.known), layout.known_mask)
        if layout.ties is not None:
            denoise = Tied(denoise, layout.ties)
        if layout.constrain is not None:
            denoise = self._constrained(denoise, layout, rows)
        path, sampler = self.config.diffusion.path, SAMPLERS[settings.sampler]
        result = sampler(denoise, x, path, times, callback=callback, draws=draws)
        return Tokens(x, layout.mask, layout.positions).with_values(self.denormalise(result))

    def finish(self, tokens: Tokens, layout: Layout, rows: Tensor) -> list[Any]:
        """Native objects of latent tokens."""
        raw = self.codec.decode(tokens)
        return self.domain.to_native(raw if layout.finish is None else layout.finish(raw, rows))

    def _constrained(self, denoise: Denoiser, layout: Layout, rows: Tensor) -> Denoiser:
        """`denoise`, with every clean prediction moved to the nearest that keeps what is given."""

        def constrained(x: Tensor, t: Tensor) -> Tensor:
            assert layout.constrain is not None
            clean = layout.constrain(self.denormalise(denoise(x, t)), rows)
            return self.normalise(clean) * layout.mask[..., None]

        return constrained

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents as the transformer sees them."""
        return (latents - self.latent_mean) / self.latent_std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Latents as the codec makes them."""
        return latents * self.latent_std + self.latent_mean

    def denoiser(
        self, layout: Layout, conditions: Conditions, settings: SamplingConfig, times: Tensor | None = None
    ) -> Denoiser:
        """The network as a denoiser of laid out tokens that are told `conditions`; for one trajectory.

        A network that is told step sizes is told those between `times`, where the sampler steps straight.
        """
        straight = self.config.model.step_input and settings.sampler == "euler"
        denoise = replace(self._network(layout, conditions), times=times if straight else None)
        if settings.autoguidance == 1:
            return denoise
        weak = replace(denoise, remember=False)
        return Autoguidance(denoise, weak, settings.autoguidance, settings.autoguidance_interval)

    def _network(self, layout: Layout, conditions: Conditions) -> ModelDenoiser:
        """The network as a denoiser, without guidance."""
        path, prediction = self.config.diffusion.path, self.config.diffusion.prediction
        return ModelDenoiser(self.core, path, prediction, layout.mask, layout.positions, conditions)


def _watch(bar: Any, callback: Callback | None) -> Callback:
    """A callback that moves the bar and passes on to `callback`."""

    def watch(state: Any) -> None:
        bar.update()
        if callback is not None:
            callback(state)

    return watch
