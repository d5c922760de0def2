"""Training and inference code as research code has it: whole graphs, and what eager does to results, modules, optimizers and the random stream."""

import copy

import lamina_dynamo
import pytest
import torch
import torch.nn.functional as F
from backends import THOROUGH
from lamina_dynshape.support.counters import counters
from torch import nn


PROGRAMS = []


def program(make=None, *, whole=True):
    """Register `make() -> (function, arguments, objects whose state is compared)`."""
    if make is None:
        return lambda make: program(make, whole=whole)
    PROGRAMS.append(pytest.param(make, whole, id=make.__name__))
    return make


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def X():
    return torch.randn(5, 4)


@program
def train_step_clip():
    m=net(); o=torch.optim.AdamW(m.parameters(),lr=.01)
    def f(x,y):
        o.zero_grad(set_to_none=True)
        l=F.mse_loss(m(x),y); l.backward()
        n=nn.utils.clip_grad_norm_(m.parameters(),1.0)
        o.step()
        return l.detach(), n
    return f,(X(),torch.randn(5,2)),(m,o)


@program
def ema_update():
    m=net(); e=copy.deepcopy(m)
    @torch.no_grad()
    def f(decay):
        for p,q in zip(e.parameters(), m.parameters()):
            p.lerp_(q, 1-decay)
        for b,c in zip(e.buffers(), m.buffers()): b.copy_(c)
        return sum(p.sum() for p in e.parameters())
    return f,(0.9,),(m,e)


@program
def scheduler_step():
    m=net(); o=torch.optim.SGD(m.parameters(),lr=.1); sc=torch.optim.lr_scheduler.StepLR(o,1,0.5)
    def f(x):
        o.zero_grad(); l=m(x).sum(); l.backward(); o.step(); sc.step()
        return l.detach(), o.param_groups[0]["lr"]
    return f,(X(),),(m,)


@program
def nograd_method():
    class M(nn.Module):
        def __init__(s): super().__init__(); s.l=nn.Linear(4,4); s.register_buffer("code",torch.zeros(4))
        @torch.no_grad()
        def update(s,x): s.code.mul_(.9).add_(x.mean(0),alpha=.1)
        def forward(s,x):
            if s.training: s.update(x)
            return s.l(x)-s.code
    m=M(); return m,(X(),),(m,)


@program
def autocast_nested():
    m=net()
    def f(x):
        with torch.autocast("cpu",dtype=torch.bfloat16):
            y=m(x)
            with torch.autocast("cpu",enabled=False):
                z=y.float().softmax(-1)
        return z
    return f,(X(),),(m,)


@program(whole=False)
def grad_scaler_on():
    m=net(); o=torch.optim.SGD(m.parameters(),lr=.1); sc=torch.amp.GradScaler("cpu",init_scale=8.)
    def f(x):
        l=m(x).sum(); sc.scale(l).backward(); sc.step(o); sc.update(); o.zero_grad()
        return l.detach()
    return f,(X(),),(m,)


@program
def grad_accum():
    m=net(); o=torch.optim.SGD(m.parameters(),lr=.1)
    def f(x):
        tot=0.
        for i,c in enumerate(x.chunk(2)):
            l=m(c).pow(2).mean()/2; l.backward(); tot=tot+l.detach()
        o.step(); o.zero_grad()
        return tot
    return f,(X(),),(m,)


@program
def weight_iter_writes():
    m=net()
    def f(x):
        with torch.no_grad():
            for n,p in m.named_parameters():
                if n.endswith("bias"): p.zero_()
                else: p.copy_(p/p.norm(dim=1,keepdim=True))
        return m(x)
    return f,(X(),),(m,)


@program
def counter_buffer():
    class M(nn.Module):
        def __init__(s): super().__init__(); s.register_buffer("step",torch.tensor(0)); s.l=nn.Linear(4,4)
        def forward(s,x):
            s.step+=1
            return s.l(x)*(1-0.9**s.step)
    m=M(); return m,(X(),),(m,)


@program
def fwd_hook_closure():
    m=net(); acts={}
    def mk(n):
        def h(mod,i,o): acts[n]=o.detach()
        return h
    for n,l in m.named_children(): l.register_forward_hook(mk(n))
    def f(x):
        y=m(x); return y, acts["0"].mean(), len(acts)
    return f,(X(),),(m,)


@program
def feature_extractor():
    class FE(nn.Module):
        def __init__(s): super().__init__(); s.m=net(); s.feats=[]; s.m[1].register_forward_hook(s.save)
        def save(s,mod,i,o): s.feats.append(o)
        def forward(s,x):
            s.feats.clear(); y=s.m(x); return y, torch.stack([f.mean() for f in s.feats])
    m=FE(); return m,(X(),),()


@program
def vae():
    class V(nn.Module):
        def __init__(s): super().__init__(); s.e=nn.Linear(4,4); s.d=nn.Linear(2,4)
        def forward(s,x):
            mu,lv=s.e(x).chunk(2,-1)
            z=torch.distributions.Normal(mu,(lv/2).exp()).rsample()
            kl=torch.distributions.kl_divergence(torch.distributions.Normal(mu,(lv/2).exp()),torch.distributions.Normal(0.,1.)).sum()
            return F.mse_loss(s.d(z),x)+kl
    m=V(); return m,(X(),),(m,)


@program
def policy_gradient():
    m=net()
    def f(x):
        d=torch.distributions.Categorical(logits=m(x)); a=d.sample()
        return -(d.log_prob(a)*x.sum(-1)).mean()+0.01*d.entropy().mean(), a
    return f,(X(),),(m,)


@program
def gan_step():
    g=nn.Linear(3,4); d=nn.Linear(4,1); og=torch.optim.Adam(g.parameters(),lr=.01); od=torch.optim.Adam(d.parameters(),lr=.01)
    def f(x):
        z=torch.randn(5,3)
        od.zero_grad(); ld=F.softplus(-d(x)).mean()+F.softplus(d(g(z).detach())).mean(); ld.backward(); od.step()
        for p in d.parameters(): p.requires_grad_(False)
        og.zero_grad(); lg=F.softplus(-d(g(z))).mean(); lg.backward(); og.step()
        for p in d.parameters(): p.requires_grad_(True)
        return ld.detach(), lg.detach()
    return f,(X(),),(g,d)


@program
def knowledge_distill():
    t=net().eval(); s=net()
    def f(x):
        with torch.inference_mode(): tl=t(x)
        sl=s(x)
        return F.kl_div(sl.log_softmax(-1), tl.clone().softmax(-1), reduction="batchmean")
    return f,(X(),),(s,)


@program
def mixup():
    m=net()
    def f(x,y):
        lam=torch.distributions.Beta(1.,1.).sample(); i=torch.randperm(5)
        return F.cross_entropy(m(lam*x+(1-lam)*x[i]), y)
    return f,(X(),torch.tensor([0,1,0,1,1])),(m,)


@program(whole=False)
def contrastive_queue():
    class Q(nn.Module):
        def __init__(s): super().__init__(); s.l=nn.Linear(4,4); s.register_buffer("q",F.normalize(torch.randn(4,10),dim=0)); s.register_buffer("ptr",torch.zeros(1,dtype=torch.long))
        @torch.no_grad()
        def push(s,k):
            p=int(s.ptr); s.q[:,p:p+5]=k.t(); s.ptr[0]=(p+5)%10
        def forward(s,x):
            q=F.normalize(s.l(x),dim=1); k=q.detach(); lo=torch.cat([(q*k).sum(1,keepdim=True), q@s.q.clone()],1)
            s.push(k); return F.cross_entropy(lo,torch.zeros(5,dtype=torch.long))
    m=Q(); return m,(X(),),(m,)


@program
def grad_noise():
    m=net()
    def f(x):
        m.zero_grad(); m(x).sum().backward()
        for p in m.parameters():
            if p.grad is not None: p.grad.add_(torch.randn_like(p.grad)*.01)
        return torch.stack([p.grad.norm() for p in m.parameters()])
    return f,(X(),),(m,)


@program
def sam_step():
    m=net(); o=torch.optim.SGD(m.parameters(),lr=.1)
    def f(x):
        m(x).pow(2).mean().backward()
        with torch.no_grad():
            n=torch.stack([p.grad.norm() for p in m.parameters()]).norm(); es=[]
            for p in m.parameters(): e=p.grad*(0.05/(n+1e-12)); p.add_(e); es.append(e)
        o.zero_grad(); m(x).pow(2).mean().backward()
        with torch.no_grad():
            for p,e in zip(m.parameters(),es): p.sub_(e)
        o.step(); o.zero_grad()
        return n
    return f,(X(),),(m,)


@program
def functional_call_maml():
    m=net()
    def f(x,y):
        ps=dict(m.named_parameters()); l=F.mse_loss(torch.func.functional_call(m,ps,(x,)),y)
        gs=torch.autograd.grad(l,ps.values(),create_graph=True)
        ps={n:p-.1*g for (n,p),g in zip(ps.items(),gs)}
        return F.mse_loss(torch.func.functional_call(m,ps,(x,)),y)
    return f,(X(),torch.randn(5,2)),(m,)


@program
def seq_model_state():
    class R(nn.Module):
        def __init__(s): super().__init__(); s.c=nn.GRUCell(4,4); s.h=None
        def forward(s,x):
            if s.h is None: s.h=torch.zeros(5,4)
            s.h=s.c(x,s.h).detach(); return s.h*2
    m=R(); return m,(X(),),()


@program
def multi_grad_modes():
    m=net()
    def f(x):
        with torch.set_grad_enabled(m.training): a=m(x)
        prev=torch.is_grad_enabled(); torch.set_grad_enabled(False); b=m(x); torch.set_grad_enabled(prev)
        return a,b,torch.is_grad_enabled()
    return f,(X(),),(m,)


@program
def eval_loop():
    m=net()
    @torch.inference_mode()
    def f(xs):
        was=m.training; m.eval(); outs=[m(x) for x in xs]; m.train(was)
        return torch.cat(outs).mean(0)
    return f,([X(),X()],),(m,)


@program
def set_seed_helper():
    m=nn.Sequential(nn.Linear(4,4),nn.Dropout())
    def seed(n): torch.manual_seed(n); torch.cuda.manual_seed_all(n); torch.use_deterministic_algorithms(True); torch.use_deterministic_algorithms(False)
    def f(x):
        seed(3); return m(x)
    return f,(X(),),(m,)


def state_of(v):
    if isinstance(v, torch.Tensor):
        return [v.detach().clone(), v.requires_grad, v.is_inference(), v.grad.clone() if v.is_leaf and v.grad is not None else None]
    if isinstance(v, nn.Module):
        return [state_of(dict(v.named_parameters())), state_of(dict(v.named_buffers())), v.training]
    if isinstance(v, torch.optim.Optimizer):
        return state_of(v.state_dict())
    if isinstance(v, dict):
        return [[str(k), state_of(x)] for k, x in v.items()]
    if isinstance(v, (list, tuple)):
        return [state_of(x) for x in v]
    return v


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-5)
    else:
        assert a == b


def run(make, wrap):
    torch.manual_seed(0)
    f, args, objects = make()
    f = wrap(f)
    seen = []
    for i in range(3):
        torch.manual_seed(i)
        out = f(*args)
        wanted = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor) and t.requires_grad]
        if wanted:
            sum(t.sum() for t in wanted).backward()
        seen.append([state_of(out), state_of(list(objects)), torch.get_rng_state(), torch.is_grad_enabled()])
    return seen


@pytest.mark.parametrize("make, whole", PROGRAMS)
@pytest.mark.filterwarnings("ignore")
def test_program(make, whole):
    expected = run(make, lambda f: f)
    counters.clear()
    assert_same(expected, run(make, lambda f: lamina_dynamo.optimize(f, THOROUGH)))
    assert not counters["graph_breaks"] if whole else counters["graph_breaks"]


def test_a_gradient_scaler_skips_steps_as_eager_does():
    def make():
        torch.manual_seed(0)
        m = nn.Linear(4, 2)
        o, s = torch.optim.SGD(m.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

        def step(x):
            s.scale(m(x).sum()).backward()
            s.step(o)
            s.update()
            o.zero_grad()

        return m, s, step

    (m, s, step), (m2, s2, step2) = make(), make()
    fast = lamina_dynamo.optimize(step2, THOROUGH)
    for i in range(7):
        x = torch.ones(3, 4) * (float("inf") if i in (2, 5) else 1)
        step(x)
        fast(x)
        assert_same(state_of(m), state_of(m2))
        assert s.state_dict() == s2.state_dict()


def test_a_failed_check_after_random_numbers_draws_them_again():
    def f(x):
        y = x + torch.rand(3)
        if x.sum() > 100:
            raise ValueError("too large")
        return y

    counters.clear()
    fast = lamina_dynamo.optimize(f, THOROUGH)
    torch.testing.assert_close(*[(torch.manual_seed(1), g(torch.ones(3)))[1] for g in (f, fast)])
    states = []
    for g in (f, fast):
        torch.manual_seed(1)
        with pytest.raises(ValueError, match="too large"):
            g(torch.full((3,), 100.0))
        states.append(torch.get_rng_state())
    assert torch.equal(*states) and not counters["graph_breaks"]
