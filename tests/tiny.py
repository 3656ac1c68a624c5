"""ESeg-Lite-S on built-in scenes, shrunk until a run takes seconds."""

from configs import eseg_lite_s


def get_config():
    config = eseg_lite_s.get_config("scenes")
    config.unlock()
    config.model.options = {"width": 0.1, "depth": 0.1, "features": 8, "max_level": 5}
    config.lock()
    config.dataset.update(size=(64, 64), train_images=16, eval_images=6)
    config.input.update(batch_size=4, crop=(48, 48))
    config.total_steps = 6
    config.optimizer.warmup_steps = 2
    config.eval.update(batch_size=4, images=2)
    config.log_every = 1
    config.eval_every = 3
    config.checkpoint_every = 2
    return config
