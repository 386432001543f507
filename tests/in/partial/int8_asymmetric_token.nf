# One scale and one zero point a row, from its range.
graph "int8_asymmetric_token"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c255: f32[] = 255.0
const %zero: f32[] = 0.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%y32 = cast(%y) {to=f32}
%mx = reduce_max(%y32) {axes=[-1]}
%mn = reduce_min(%y32) {axes=[-1]}
%rg = sub(%mx, %mn)
%s = div(%rg, %c255)
%nz = div(%mn, %s)
%nn = neg(%nz)
%zp = round(%nn)
%d = div(%y32, %s)
%r = round(%d)
%o = add(%r, %zp)
%c = clip(%o, %zero, %c255)
%q = cast(%c) {to=u8}
output %q
output %s
output %zp
