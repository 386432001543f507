# Meaning B: the weight product in f32, one cast behind it.
graph "rms_f32_product"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
%x32 = cast(%x) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[2]}
%ve = add(%eps, %ms)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%w32 = cast(%w) {to=f32}
%p = mul(%w32, %n)
%y = cast(%p) {to=bf16}
output %y
