# As torchao quantises: the largest magnitude is that of the range around zero, and a zero point of as many zeros as there are
# rows is added. Others read it, too.
graph "quant_int8_zero_point"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %fl: f32[] = 1e-5
const %c127: f32[] = 127.0
const %lo: f32[] = -128.0
const %c127_5: f32[] = 127.5
const %last: i64[1] = [1]
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
%mn = reduce_min(%y) {axes=[-1]}
%mx = reduce_max(%y) {axes=[-1]}
%lead = shape(%x) {start=0, end=2}
%sh = concat(%lead, %last) {axis=0}
%z16 = constant_of_shape(%sh) {dtype=bf16, value=0.0}
%b16 = constant_of_shape(%sh) {dtype=bf16, value=0.0}
%mn0 = min(%mn, %z16)
%mx0 = max(%mx, %b16)
%neg = neg(%mn0)
%am16 = max(%neg, %mx0)
%am = cast(%am16) {to=f32}
%amd = div(%am, %c127_5)
%s = clip(%amd, %fl)
%by = reciprocal(%s)
%d = mul(%y32, %by)
%r = round(%d)
%zf = constant_of_shape(%sh) {dtype=bf16, value=0.0}
%zp = cast(%zf) {to=i8}
%z32 = cast(%zp) {to=f32}
%rz = add(%r, %z32)
%rc = clip(%rz, %lo, %c127)
%q = cast(%rc) {to=i8}
output %q
output %s
output %zp
