# A LayerNorm's variance is a mean of squares too.
graph "layer_norm"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
%x32 = cast(%x) {to=f32}
%mu = reduce_mean(%x32) {axes=[-1]}
%d = sub(%x32, %mu)
%y_sq = pow(%d, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%d, %y_r)
%w32 = cast(%w) {to=f32}
%y = mul(%w32, %y_n)
output %y
