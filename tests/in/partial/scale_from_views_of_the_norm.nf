# As scale_from_the_norm, and views of the result come first: those are the norm's, and no part of the quantiser.
graph "scale_from_views_of_the_norm"
opset "" 20
input %in1: bf16[batch, seq, 32]
%n2 = add(%in1, %in1)
%n3 = mul(%n2, %n2)
%n4 = reduce_mean(%n3) {axes=[-1], keepdims=true}
const %c5: bf16[] = 1e-6
%n6 = add(%n4, %c5)
%n7 = sqrt(%n6)
%n8 = reciprocal(%n7)
%n9 = mul(%n2, %n8)
const %c10: bf16[32] = fill(1.25)
%n11 = mul(%c10, %n9)
%n12 = unsqueeze(%n11) {axes=[0]}
%n13 = squeeze(%n12) {axes=[0]}
%n14 = cast(%n13) {to=f32, saturate=true}
%n15 = reduce_max(%n14) {axes=null, keepdims=false}
%n16 = div(%n14, %n15)
const %c17: f32[] = -448.0
const %c18: f32[] = 448.0
%n19 = clip(%n16, %c17, %c18)
%n20 = cast(%n19) {to=f8e4m3fn, saturate=true}
output %n20 as "out21"
output %n2
