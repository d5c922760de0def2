"""Between two calls one thing that the program could see changes: compiled code must follow eager."""

import types

import pytest
import torch
from lamina_dynamo import optimize

SCALE = 2
TABLE = {"k": 3, "list": [1, 2]}


def helper(x, bonus=1):
    return x * SCALE + bonus


class Config:
    rate = 0.5

    def __init__(self):
        self.mode, self.sizes, self.nested = "a", (1, 2), {"deep": [5]}

    @property
    def doubled(self):
        return self.rate * 2


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.act, self.flag, self.config = torch.nn.Linear(4, 4), torch.nn.ReLU(), True, Config()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        self.register_buffer("shift", torch.ones(4))
        self.plain = [torch.ones(4)]

    def scale(self, x):
        return x * 1.5

    def forward(self, x):
        y = self.act(self.lin(x)) + self.shift
        for b in self.blocks:
            y = b(y)
        y = self.scale(y) if self.flag else y
        if self.config.mode == "a":
            y = y + self.config.doubled
        y = helper(y) + TABLE["k"] + len(TABLE["list"]) + self.config.nested["deep"][0] + self.plain[0]
        return y * sum(self.config.sizes) if self.training else y - getattr(self, "extra", 0)


def set_global(name, value):
    globals()[name] = value


CHANGES = {
    "flag": lambda m: setattr(m, "flag", False),
    "training": lambda m: m.eval(),
    "config attribute": lambda m: setattr(m.config, "mode", "b"),
    "config tuple": lambda m: setattr(m.config, "sizes", (4, 5)),
    "nested list": lambda m: m.config.nested["deep"].__setitem__(0, 9),
    "class attribute": lambda m: setattr(Config, "rate", 4.0),
    "instance over class attribute": lambda m: setattr(m.config, "rate", 7.0),
    "property": lambda m: setattr(Config, "doubled", property(lambda self: 100.0)),
    "method of the class": lambda m: setattr(Net, "scale", lambda self, x: x * 9),
    "method on the instance": lambda m: setattr(m, "scale", lambda x: x * 11),
    "global number": lambda m: set_global("SCALE", 5),
    "global dict entry": lambda m: TABLE.__setitem__("k", 30),
    "global list length": lambda m: TABLE["list"].append(1),
    "global function": lambda m: set_global("helper", lambda x: x - 1),
    "default": lambda m: setattr(helper, "__defaults__", (70,)),
    "function code": lambda m: setattr(helper, "__code__", (lambda x, bonus=1: x * 3).__code__),
    "module replaced": lambda m: setattr(m, "act", torch.nn.Sigmoid()),
    "module forward replaced": lambda m: setattr(m.act, "forward", lambda x: x * 2),
    "parameter replaced": lambda m: setattr(m.lin, "weight", torch.nn.Parameter(torch.zeros(4, 4))),
    "parameter data": lambda m: m.lin.weight.data.fill_(2.0),
    "parameter dropped": lambda m: setattr(m.lin, "bias", None),
    "buffer": lambda m: m.shift.mul_(5),
    "buffer replaced": lambda m: setattr(m, "shift", torch.zeros(4)),
    "tensor in a list": lambda m: m.plain.__setitem__(0, torch.zeros(4)),
    "block appended": lambda m: m.blocks.append(torch.nn.Linear(4, 4)),
    "block removed": lambda m: m.blocks.__delitem__(0),
    "hook": lambda m: m.act.register_forward_hook(lambda mod, args, out: out + 1),
    "pre hook": lambda m: m.blocks[0].register_forward_pre_hook(lambda mod, args: (args[0] * 2,)),
    "attribute added": lambda m: (m.eval(), setattr(m, "extra", 8)),
    "dtype of the model": lambda m: m.double(),
    "class of a module": lambda m: setattr(m.act, "__class__", torch.nn.Tanh),
}


@pytest.fixture(autouse=True)
def _restore():
    kept = {k: globals()[k] for k in ("SCALE", "helper")}
    table = {"k": 3, "list": [1, 2]}
    code, scale, prop = helper.__code__, Net.scale, Config.__dict__["doubled"]
    yield
    globals().update(kept)
    TABLE.clear()
    TABLE.update(table)
    helper.__code__, helper.__defaults__, Net.scale, Config.doubled, Config.rate = code, (1,), scale, prop, 0.5


@pytest.mark.parametrize("change", CHANGES)
def test_compiled_follows_a_change(change):
    torch.manual_seed(0)
    m = Net()
    compiled = optimize(m, lambda gm, example_inputs: gm.forward)
    x = torch.randn(2, 4)
    if change == "attribute added":
        m.eval()
    for _ in range(2):
        assert torch.equal(compiled(x), m(x))
    CHANGES[change](m)
    x = x.to(m.lin.weight.dtype)
    for _ in range(2):
        assert torch.equal(compiled(x), m(x)), change


def test_grad_mode_autocast_and_inputs_are_guarded():
    def f(x, y):
        return (x @ y).requires_grad, (x @ y).dtype, x.stride(), x is y

    compiled = optimize(f, lambda gm, example_inputs: gm.forward)
    x, y = torch.randn(3, 3, requires_grad=True), torch.randn(3, 3)

    def agree(*args):
        assert compiled(*args) == f(*args)

    agree(x, y)
    with torch.no_grad():
        agree(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        agree(x, y)
    agree(x.detach(), y)
    agree(x.t(), y)
    agree(y, y)
    agree(x.double(), y.double())


def test_a_closure_cell_is_guarded():
    def make():
        k = 1

        def f(x):
            return x + k

        def set_k(v):
            nonlocal k
            k = v

        return f, set_k

    f, set_k = make()
    compiled = optimize(f, lambda gm, example_inputs: gm.forward)
    x = torch.zeros(2)
    assert torch.equal(compiled(x), f(x))
    set_k(10)
    assert torch.equal(compiled(x), f(x))


def test_a_module_reload_is_seen():
    module = types.ModuleType("changing")
    module.factor = 2

    def f(x):
        return x * module.factor

    compiled = optimize(f, lambda gm, example_inputs: gm.forward)
    x = torch.ones(2)
    assert torch.equal(compiled(x), f(x))
    module.factor = 3
    assert torch.equal(compiled(x), f(x))
