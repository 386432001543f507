# A norm's codes, dequantised for two products.
graph "norm_then_product"
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %floor: f32[] = 1e-4
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %cut: i64[4] = [0, 0, 2, 128]
const %whole: i64[3] = [0, 0, 256]
input %wa: f8e4m3fn[6, 256]
input %sa: f32[1]
input %wb: f8e4m3fn[4, 256]
input %sb: f32[1]
%x32 = cast(%x) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rs = rsqrt(%ve)
%n = mul(%x32, %rs)
%nc = cast(%n) {to=bf16}
%y = mul(%w, %nc)
%g = reshape(%y, %cut)
%g32 = cast(%g) {to=f32}
%abs = abs(%g32)
%am = reduce_max(%abs) {axes=[-1]}
%amc = clip(%am, %floor)
%s = div(%amc, %fmax)
%d = div(%g32, %s)
%dc = clip(%d, %fmin, %fmax)
%q = cast(%dc) {to=f8e4m3fn}
%qf = cast(%q) {to=f32}
%back = mul(%qf, %s)
%flat = reshape(%back, %whole)
%v = cast(%flat) {to=bf16}
%wa32 = cast(%wa) {to=f32}
%wad = mul(%wa32, %sa)
%wab = cast(%wad) {to=bf16}
%wat = transpose(%wab) {perm=[1, 0]}
%ya = matmul(%v, %wat)
%wb32 = cast(%wb) {to=f32}
%wbd = mul(%wb32, %sb)
%wbb = cast(%wbd) {to=bf16}
%wbt = transpose(%wbb) {perm=[1, 0]}
%yb = matmul(%v, %wbt)
output %ya as "a"
output %yb as "b"
