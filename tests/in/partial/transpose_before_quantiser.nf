# Tokens and heads change places between the norm and the quantiser: other rows follow one another.
graph "transpose"
opset "" 20
input %x: bf16[batch, 8, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%x32 = cast(%x) {to=f32}
%sq = mul(%x32, %x32)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=bf16}
%y = mul(%w, %nc)
%y1 = transpose(%y) {perm=[1, 0, 2]}
%y1w = cast(%y1) {to=f32}
%m1 = mul(%y1w, %inv)
%c1 = clip(%m1, %fmin, %fmax)
%q1 = cast(%c1) {to=f8e4m3fn}
output %q1
