"""Stable Diffusion, and what has its parts, as a prior of pictures: any pipeline of diffusers that has them.

The weights are the user's: under licences of their own (CreativeML Open RAIL-M for versions 1 and 2), some
behind a consent form on the Hugging Face hub, which `huggingface-cli login` passes.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.errors import Gen3dError, require
from gen3d.types import Conditions

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""What a pipeline must have."""
WORDY = 4
"""Maps of attention are read where cells are so many times as wide as those of the latents (Vox-E: 16 x 16
of 64 x 64), or everywhere in networks that have no such layers."""


class StableDiffusionPrior:
    """An `ImagePrior` of a pipeline's parts. Their weights stay as they are.

    Args:
        pipeline: a `diffusers.StableDiffusionPipeline`, or anything with the same parts.

    Raises:
        Gen3dError: a pipeline without one of the parts, or a network that takes other latents than the
            autoencoder makes.
    """

    knows_cameras = before_white = in_colours = False
    guidance, attention_noise = 100.0, 0.2

    def __init__(self, pipeline: Any) -> None:
        missing = [name for name in PARTS if getattr(pipeline, name, None) is None]
        if missing:
            raise Gen3dError(
                f"{type(pipeline).__name__} has no {missing[0]}; a prior needs {', '.join(PARTS)}"
            )
        self.unet, self.vae, self.text_encoder = (
            getattr(pipeline, name).eval().requires_grad_(False) for name in PARTS[:3]
        )
        self.tokenizer, self.scheduler = pipeline.tokenizer, pipeline.scheduler
        self.channels = self.vae.config.latent_channels
        if self.unet.config.in_channels != self.channels:
            raise Gen3dError(
                f"the network takes {self.unet.config.in_channels} channels, the autoencoder makes "
                f"{self.channels}; pipelines for inpainting or depth are no priors"
            )
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction", "sample"):
            raise Gen3dError(f"the network predicts {kind!r}; allowed: epsilon, v_prediction, sample")
        self.kind = kind
        self.cells = int(self.unet.config.sample_size)
        self.size = self.cells * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.cumulative = self.scheduler.alphas_cumprod.float()

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "StableDiffusionPrior":
        """Load a folder or a hub id.

        Raises:
            Gen3dError: there is no pipeline that can be loaded, or one of another kind.
            MissingExtra: diffusers or transformers is not installed.
        """
        diffusers = require("diffusers", "text")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float16 if device == "cuda" else torch.float32
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(source), torch_dtype=dtype, use_safetensors=True, safety_checker=None
            )
        except Exception as error:
            # diffusers and the hub raise about anything for what is missing, damaged or of another kind.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise Gen3dError(
                f"cannot load a pipeline of diffusers from {source}: {reason[0][:200]}"
            ) from error
        return cls(pipeline.to(device))

    @property
    def _device(self) -> torch.device:
        return self.unet.device

    def conditions(self, prompts: list[str], directions: Tensor | None) -> Conditions:
        tokens = self._tokens(prompts)
        with torch.no_grad():
            states = self.text_encoder(tokens["input_ids"].to(self.text_encoder.device))[0]
        return {"text": states.float().cpu()}

    def pieces(self, prompt: str) -> list[str]:
        """The tokens of a prompt, one for each row of its vectors."""
        return list(self.tokenizer.convert_ids_to_tokens(self._tokens([prompt])["input_ids"][0].tolist()))

    def encode(self, pictures: Tensor) -> Tensor:
        latents = self.vae.encode(self._in(2 * pictures - 1)).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).to(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        made = self.vae.decode(self._in(latents / self.vae.config.scaling_factor)).sample
        return ((made.clamp(-1, 1) + 1) / 2).to(latents)

    def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.cumulative[self._steps(u)].to(u)
        return abar.sqrt(), (1 - abar).sqrt()

    def denoise(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        steps = self._steps(u).to(self._device)
        told = conditions["text"]
        made = self.unet(self._in(noisy), steps, encoder_hidden_states=self._in(told)).sample.to(noisy)
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in self.schedule(u))
        if self.kind == "sample":
            return made
        if self.kind == "v_prediction":
            return alpha * noisy - sigma * made
        return (noisy - sigma * made) / alpha

    def limited(self, clean: Tensor) -> Tensor:
        return clean

    def attention(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        """(B, L, s, s): how much each cell looks at each of the L tokens of its text, the mean over layers
        and heads."""
        found: list[Tensor] = []
        own = self.unet.attn_processors
        reading = {name: _Reader(found) if "attn2" in name else own[name] for name in own}
        try:
            self.unet.set_attn_processor(reading)
            with torch.no_grad():
                self.denoise(noisy, u, conditions)
        finally:
            self.unet.set_attn_processor(own)
        side = max(1, self.cells // WORDY)
        chosen = [maps for maps in found if maps.shape[1] == side * side] or found
        grids = []
        for maps in chosen:
            edge = round(maps.shape[1] ** 0.5)
            grid = maps.transpose(1, 2).unflatten(2, (edge, edge)).float()
            grids.append(F.interpolate(grid, 2 * [self.cells], mode="bilinear"))
        return torch.stack(grids).mean(0).to(noisy)

    def _tokens(self, prompts: list[str]) -> Any:
        return self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )

    def _steps(self, u: Tensor) -> Tensor:
        """(B,) numbers of steps of the discrete process at noise levels (B,)."""
        count = len(self.cumulative)
        return (u.cpu() * count).round().long().clamp(0, count - 1)

    def _in(self, tensor: Tensor) -> Tensor:
        """Where the network is, as it computes."""
        return tensor.to(self._device, self.unet.dtype)


class _Reader:
    """Cross-attention of diffusers that keeps its weights, (B, cells, L), the mean over heads."""

    def __init__(self, found: list[Tensor]) -> None:
        self.found = found

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **ignored: Any
    ) -> Tensor:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told)
        query, key, value = (attn.head_to_batch_dim(each) for each in (query, key, value))
        weights = attn.get_attention_scores(query, key)
        self.found.append(weights.unflatten(0, (-1, attn.heads)).mean(1))
        made = attn.batch_to_head_dim(torch.bmm(weights, value))
        return attn.to_out[1](attn.to_out[0](made))
