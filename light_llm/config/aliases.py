"""Names that other programs use for our settings, so that a message can give ours.

Nothing here is accepted in place of a setting's own name: two names for one setting would be two ways to write a run.
"""

from typing import Any

from .run_config import FLAGS, PARTS
from .settings import settings_of

_NAMES = {
    "train.lr": "learning_rate max_lr peak_lr lr_max step_size",
    "train.max_steps": "steps iters iterations max_iters max_iter num_steps n_steps num_iterations train_steps",
    "train.batch_size": "bs batch train_batch_size per_device_train_batch_size global_batch_size batch_size_per_gpu",
    "train.micro_batch": (
        "grad_accum gradient_accumulation gradient_accumulation_steps accumulate_grad_batches grad_accumulation_steps "
        "accumulation_steps micro_batch_size"
    ),
    "train.optimizer": "optim opt",
    "train.warmup_steps": "warmup warmup_iters num_warmup_steps lr_warmup",
    "train.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay decay_lr",
    "train.min_lr_ratio": "min_lr lr_min final_lr end_lr",
    "train.lr_horizon": "lr_decay_iters decay_steps",
    "train.weight_decay": "wd l2",
    "train.beta1": "adam_beta1",
    "train.beta2": "adam_beta2 betas",
    "train.eps": "epsilon adam_epsilon adam_eps",
    "train.grad_clip": "clip clip_grad max_grad_norm gradient_clip gradient_clip_val clip_grad_norm",
    "train.checkpointing": "gradient_checkpointing grad_checkpointing activation_checkpointing",
    "train.eval_interval": "eval_every eval_steps eval_freq eval_iters val_interval val_every val_check_interval",
    "train.save_interval": "save_every save_steps save_freq checkpoint_every checkpoint_interval ckpt_interval",
    "train.sample_interval": "sample_every sample_steps",
    "train.patience": "early_stopping early_stopping_patience early_stop",
    "train.device": "accelerator gpu cuda cpu",
    "train.dtype": "precision mixed_precision fp16 bf16 amp",
    "train.compile": "torch_compile",
    "train.tracker": "wandb wandb_log report_to logger use_wandb",
    "train.init_from": "pretrained from_pretrained checkpoint ckpt load_from base_model finetune",
    "train.seed": "random_seed manual_seed rng_seed random_state",
    "data.data": "dataset data_path data_dir train_data train_file input input_file corpus text file",
    "data.max_length": (
        "block_size seq_len seq_length sequence_length context context_length context_size ctx_len n_ctx max_seq_len "
        "max_seq_length window_size"
    ),
    "data.held_out": "val_split validation_split val_fraction test_size eval_split",
    "data.val_data": "val_file validation_file val_path eval_data eval_file validation_data",
    "data.text_field": "text_column text_key",
    "data.separator": "document_separator doc_separator eot_token end_of_text",
    "data.suffixes": "extensions file_extensions include",
    "model.n_layer": "layers n_layers num_layers num_hidden_layers depth",
    "model.n_head": "heads n_heads num_heads num_attention_heads",
    "model.n_embd": "n_embed d_model dim hidden_size hidden_dim embed_dim embedding_size width",
    "model.n_positions": "max_position_embeddings positions_size",
    "model.n_kv_head": "num_key_value_heads n_kv_heads num_kv_heads",
    "model.n_inner": "intermediate_size ffn_dim d_ff mlp_dim",
    "model.dropout": "drop dropout_rate resid_pdrop",
    "model.rope_base": "rope_theta rotary_emb_base",
    "model.rope_local_base": "rope_local_base_freq",
    "model.rotary_pct": "partial_rotary_factor",
    "model.parallel_residual": "use_parallel_residual",
    "model.norm_eps": "rms_norm_eps layer_norm_eps layer_norm_epsilon",
    "model.tied_head": "tie_word_embeddings tie_embeddings weight_tying",
    "model.window": "sliding_window",
}
# The other name -> the setting, as in "train.lr".
ALIASES = {alias: path for path, aliases in _NAMES.items() for alias in aliases.split()}
# Passes over the text, which are no setting: a run is measured in steps.
EPOCHS = ("epoch", "epochs", "n_epochs", "num_epochs", "max_epochs", "num_train_epochs", "passes")


def explain_alias(name: str, value: Any = None, *, steps_per_pass: int | None = None) -> str | None:
    """Return a clause that names our setting for a name of other programs; None for a name that is not known.

    Args:
        name: in any case, with - or _.
        value: what it was set to.
        steps_per_pass: optimizer steps of one pass over the text, where it is known.

    >>> explain_alias("learning-rate")
    'here it is {--lr}'
    >>> explain_alias("num_layers")
    'here it is {--set model.n_layer=...}, a setting of the model'
    >>> explain_alias("epochs", 3, steps_per_pass=100)
    'a run is measured in steps. One pass over this text is 100 steps, so 3 passes are {--max-steps 300}'
    """
    name = name.lower().strip("-").replace("-", "_")
    if name in EPOCHS:
        return _explain_epochs(value, steps_per_pass)
    path = ALIASES.get(name) or next(
        (f"{part}.{name}" for part in ("model", "data") if name in settings_of(PARTS[part])), ""
    )
    if not path:
        return None
    part, _, setting = path.partition(".")
    option = f"--{setting.replace('_', '-')}" if setting in FLAGS else f"--set {path}=..."
    owner = {"model": ", a setting of the model", "data": ", a setting of the data"}.get(part, "")
    note = ", the sequences that are computed at a time" if path == "train.micro_batch" else ""
    return f"here it is {{{option}}}{owner}{note}"


def _explain_epochs(value: Any, steps_per_pass: int | None) -> str:
    start = "a run is measured in steps. One pass over "
    try:
        passes = float(value)
    except (TypeError, ValueError):
        passes = 0.0
    if not steps_per_pass:
        return f"{start}the text is its training tokens / (batch_size x max_length) steps; set {{--max-steps}}"
    steps = f"{start}this text is {steps_per_pass:,} steps"
    if not passes > 0:
        return f"{steps}; set {{--max-steps}}"
    return f"{steps}, so {passes:g} passes are {{--max-steps {max(1, round(passes * steps_per_pass))}}}"
