"""The training step of a peer: that of eseg_jax.steps, as one writes it in PyTorch."""

import copy

import torch
import torch.nn.functional as F

import peers


def make_step(name, config, *, num_classes, mean, std, device, compiled, bfloat16):
    """step(images uint8 [n, h, w, 3], labels int64 [n, h, w]) -> loss.

    Normalise, forward, loss, backward, update, moving averages. `config` is one of this
    library's configurations; the learning rate stays at its peak.
    """
    model = peers.create(name, num_classes).to(device).train()
    memory_format = torch.channels_last
    if device == "cpu" and name.startswith("dfanet"):
        # PyTorch 2.13 on CPU corrupts memory in the backward pass of a channels-last
        # 1x1 convolution of stride 2 over 8 channels, DFANet's first shortcut.
        memory_format = torch.contiguous_format
    model = model.to(memory_format=memory_format)
    average = copy.deepcopy(model)
    # Integers count batches; the rest are parameters and running statistics.
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    averages, values = zip(*(p for p in pairs if p[0].is_floating_point()), strict=True)
    optimizer = make_optimizer(model, config.optimizer)
    clip = config.optimizer.clip_norm
    mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (mean, std))

    def outputs(images):
        images = (images.permute(0, 3, 1, 2) - mean) / std
        found = model(images.contiguous(memory_format=memory_format))
        return [found["logits"], *found["aux"].values()]

    def pixel_losses(logits, labels):
        logits = F.interpolate(
            logits.float(),
            labels.shape[1:],
            mode="bilinear",
            align_corners=model.align_corners,
        )
        return F.cross_entropy(logits, labels, ignore_index=255, reduction="none")

    if compiled:
        outputs = torch.compile(outputs, dynamic=False)
        pixel_losses = torch.compile(pixel_losses, dynamic=False)
    weights = None
    if config.loss.class_weights:
        weights = torch.tensor((*config.loss.class_weights, 0.0), device=device)

    def output_loss(logits, labels):
        losses = pixel_losses(logits, labels)
        kept = labels != 255
        if config.loss.ohem_threshold:
            kept = hard_pixels(losses, kept, config.loss)
        kept = kept.float()
        if weights is not None:
            kept = kept * weights[labels.clamp(max=num_classes)]
        return (losses * kept).sum() / kept.sum().clamp(min=1)

    def step(images, labels):
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            main, *aux = outputs(images)
        loss = output_loss(main, labels)
        for logits in aux:
            loss = loss + config.loss.aux_weight * output_loss(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        torch._foreach_lerp_(averages, values, 1 - config.ema_decay)
        return loss.detach()

    return step


def hard_pixels(losses, valid, config):
    """Online hard example mining; see eseg_jax.losses.ohem_mask."""
    p = torch.where(valid, torch.exp(-losses.detach()), 2.0)
    k, threshold = int(config.ohem_min_kept_fraction * p.numel()), config.ohem_threshold
    # Early in training most pixels are below the threshold: no need to sort.
    if (p < threshold).sum() <= k:
        threshold = p.flatten().kthvalue(k + 1).values.clamp(min=threshold)
    return valid & (p < threshold)


def make_optimizer(model, config):
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 4]},
        {"params": [p for p in model.parameters() if p.ndim != 4], "weight_decay": 0.0},
    ]
    if config.weight_decay_on == ".*":
        groups[1].pop("weight_decay")
    shared = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        "fused": True,
    }
    if config.name == "adam":
        return torch.optim.Adam(groups, betas=(config.b1, config.b2), **shared)
    return torch.optim.SGD(groups, momentum=config.momentum, **shared)
