import time
import pytest
def test_smoke(host):
    t=time.time()
    out = host.txt2img({"scale": 3})
    print(time.time()-t, out.sizes, [len(s.evaluations) for s in out.samplings], [len(s.calls) for s in out.samplings], out.comments, host.swallowed, out.processed.infotexts)
    off = host.txt2img(None)
    print(off.sizes, (off.base.evaluations[-1].denoised - out.base.evaluations[-1].denoised).abs().max())

@pytest.mark.parametrize("pp",["eps","v"])
def test_all(host,pp):
    host.install(parameterization=pp, texture=0.)
    for s in host.sd_samplers.all_samplers:
        t=time.time()
        out = host.txt2img({"scale": 2}, sampler_name=s.name, steps=8)
        print(s.name, time.time()-t, out.sizes, [len(s.evaluations) for s in out.samplings], out.latents[-1].std(), out.latents[-1].mean((2,3)), out.comments, host.swallowed)
