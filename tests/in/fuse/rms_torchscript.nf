# Meaning A as the TorchScript exporter spells it: 1 / sqrt, casts of f32 to f32.
graph "rms_torchscript"
opset "" 20
input %x: f32[batch, seq, 256]
const %w: f32[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = div(%one, %y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=f32}
%y = mul(%w, %y_nc)
output %y
