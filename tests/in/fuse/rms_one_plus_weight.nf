# Meaning C: one plus the weight, all in f32.
graph "rms_one_plus_weight"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
%x32 = cast(%x) {to=f32}
%sq = mul(%x32, %x32)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%w32 = cast(%w) {to=f32}
%w1 = add(%w32, %one)
%p = mul(%n, %w1)
%y = cast(%p) {to=bf16}
output %y
