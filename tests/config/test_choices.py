"""Configs of every combination of choices: sizes without a model, bounds, and refusals that name what is possible."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.config import ModelConfig, block_shapes, get_model_size, matrix_parameters, outer_shapes
from light_llm.config.choices import MLPS, NORMS, POSITIONS, QKV_BIASES
from light_llm.errors import ConfigError
from light_llm.model import LightLLM
from light_llm.optim import group_parameters


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Small models of every mix of choices."""
    kv, groups, half = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    wide = draw(st.booleans())  # heads as wide as the stream, or of a width of their own
    return ModelConfig(
        vocab_size=draw(st.integers(1, 40)),
        n_positions=draw(st.integers(1, 20)),
        n_layer=draw(st.integers(1, 3)),
        n_head=kv * groups,
        n_kv_head=draw(st.sampled_from([0, kv])),
        n_embd=2 * half * kv * groups if wide else draw(st.integers(1, 11)),
        head_dim=0 if wide else 2 * half,
        n_inner=draw(st.sampled_from([0, 1, 30])),
        positions=draw(st.sampled_from(list(POSITIONS))),
        norm=draw(st.sampled_from(list(NORMS))),
        mlp=draw(st.sampled_from(list(MLPS))),
        qk_norm=draw(st.booleans()),
        bias=draw(st.booleans()),
        tied_head=draw(st.booleans()),
        qkv_bias=draw(st.sampled_from(QKV_BIASES)),
        post_norms=draw(st.booleans()),
    )


@given(configs())
def test_names_shapes_and_sizes_are_known_without_a_model(config: ModelConfig) -> None:
    model = LightLLM(config)
    blocks = {f"h.{i}.{name}": s for i in range(config.n_layer) for name, s in block_shapes(config).items()}
    assert outer_shapes(config) | blocks == {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert get_model_size(config) == sum(p.numel() for p in model.parameters())
    assert matrix_parameters(config) == sum(p.numel() for p in group_parameters(model)["matrix"].values())


def test_the_presets_of_both_families_are_of_a_size() -> None:
    for name in ("nano", "micro", "small"):
        sizes = [get_model_size(ModelConfig.preset(preset)) for preset in (name, f"llama-{name}")]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
        assert ModelConfig.preset(f"llama-{name}").head_size == 64


ROPE: dict[str, Any] = {"positions": "rope"}
OUT_OF_BOUNDS: dict[str, tuple[Any, ...]] = {
    "n_kv_head": (-1,),
    "head_dim": (1.5,),
    "n_inner": (-4,),
    "rope_trained": (-1,),
    "window": (True,),
    "n_positions": (0,),
    "vocab_size": (0,),
    "n_head": (0,),
    "attn_dropout": (1.0,),
    "norm_eps": (0.0, 1.0),
    "logit_cap": (-1.0, 1e39),
    "rope_base": (1.0, 10**20),
    "rope_factor": (0.5,),
    "tied_head": ("no",),
    "window_layers": ("0,six", "6", "", "-1"),
    "rotary_pct": (0.0, 1.1),
    "attn_scale": (-1.0, float("inf")),
    "rope_local_base": (-1.0, 1e13),
    "post_norms": (1,),
}
# A value that another setting forbids, or a name that is not known, and what the message offers.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_factor": 2.0, **ROPE}, "rope_factor=2 .*rope_scaling="),
    ({"rope_scaling": "linear"}, "rope_scaling=linear .*positions=learned.*positions=rope"),
    ({"window": 4, "window_layers": "9" * 5000}, "window_layers='999.*all"),
    ({"positions": "rop"}, "positions='rop'.* rope.*learned"),
    ({"rope_scaling": "llama"}, "rope_scaling='llama'.*llama3"),
    ({"norm": "rms"}, "norm='rms'.*layernorm, rmsnorm"),
    ({"mlp": "swigl"}, "mlp='swigl'.*swiglu.*gelu, swiglu, geglu, relu2"),
    ({"n_kv_head": 4}, "n_head=6 .*n_kv_head=4 .*1, 2, 3, 6$"),
    ({"n_kv_head": 12}, "n_head=6 .*n_kv_head=12"),
    ({**ROPE, "head_dim": 7}, "positions=rope.*d_k=7.*head_dim=8"),
    ({**ROPE, "n_embd": 30}, "d_k=5.*head_dim=6"),
    ({"rotary_pct": 0.5}, "rotary_pct=0.5 .*positions=learned.*positions=rope"),
    ({"rope_local_base": 500}, "rope_local_base=500 .*positions=learned.*positions=rope"),
    ({**ROPE, "rope_local_base": 1}, "rope_local_base=1 .*above 1"),
    ({**ROPE, "head_dim": 10, "rotary_pct": 0.3}, "rotary_pct=0.3 .* 3 of the 10 .*rotary_pct=0.2 or rotary_pct=0.4"),
    ({**ROPE, "rotary_pct": 0.01}, "rotary_pct=0.01 .* 0 of the 64 .*try rotary_pct=0.03125$"),
    ({"post_norms": True, "parallel_residual": True}, "post_norms=true and parallel_residual=true"),
    ({"qkv_bias": "none"}, "qkv_bias='none'.*auto, yes, no"),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_BOUNDS.items() for value in values]
)
def test_a_value_out_of_bounds_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        ModelConfig(**{name: value})


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_a_refused_choice_is_named_with_what_is_possible(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**values)


def test_queries_keys_and_values_may_have_biases_of_their_own() -> None:
    for bias in (True, False):
        given = [ModelConfig(bias=bias, qkv_bias=qkv).has_qkv_bias for qkv in QKV_BIASES]
        assert given == [bias, True, False]


def test_the_rotated_share_is_rounded_down_as_in_transformers() -> None:
    """int(D * share) there; (80, 0.4), Phi's, is 32."""
    for D, share, rotated in ((80, 0.4, 32), (64, 0.25, 16), (48, 0.25, 12), (10, 0.25, 2), (64, 1.0, 64)):
        assert ModelConfig(head_dim=D, **ROPE, rotary_pct=share).rotary_dims == rotated == int(D * share)


def test_a_variant_is_described_by_what_it_has_instead() -> None:
    neox = ModelConfig(**ROPE, rotary_pct=0.25, parallel_residual=True, activation="gelu")
    assert neox.describe_variant() == "rope in 16 of 64 numbers of a head, exact gelu, parallel branches"
    gemma = {"norm": "rmsnorm1p", "mlp": "geglu", "post_norms": True, "scale_embeddings": True, "attn_scale": 0.0625}
    words = ModelConfig(**ROPE, **gemma, window=8, window_layers="0,1", rope_local_base=500, qkv_bias="no")
    for part in (
        "1 + w",
        "geglu",
        "after the branches",
        "scaled embeddings",
        "times 0.0625",
        "base 500",
        "no biases of q",
    ):
        assert part in words.describe_variant()
