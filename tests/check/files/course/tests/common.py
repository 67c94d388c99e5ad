# mypy: ignore-errors
def load(module, weights):
    module.load_state_dict(weights)
    return module
