# The host passes both parts of a projection, with the tokens of one call.
graph "siblings_of_inputs"
opset "" 20
input %a: bf16[batch, 48]
input %b: bf16[batch, 32]
const %wa: bf16[48] = fill(1.25)
const %wb: bf16[32] = fill(0.75)
const %eps: f32[] = 1e-6
%a32 = cast(%a) {to=f32}
%asq = mul(%a32, %a32)
%ams = reduce_mean(%asq) {axes=[-1]}
%ave = add(%ams, %eps)
%ar = rsqrt(%ave)
%an = mul(%a32, %ar)
%ac = cast(%an) {to=bf16}
%ay = mul(%wa, %ac)
%b32 = cast(%b) {to=f32}
%bsq = mul(%b32, %b32)
%bms = reduce_mean(%bsq) {axes=[-1]}
%bve = add(%bms, %eps)
%br = rsqrt(%bve)
%bn = mul(%b32, %br)
%bc = cast(%bn) {to=bf16}
%by = mul(%wb, %bc)
output %ay
output %by
