body &body
  opset "" 20
  input %x: f32[4, 64]
  input %weight0: f32[64]
  %normfuse/v_1: f32[4, 64] = cast(%x) {to=f32, saturate=true}
  %normfuse/v_2: f32[4, 64] = mul(%normfuse/v_1, %normfuse/v_1)
  %normfuse/v_3: f32[4, 1] = reduce_mean(%normfuse/v_2) {axes=[-1], keepdims=true}
  const %normfuse/const_4: f32[] = 1e-6
  %normfuse/v_5: f32[4, 1] = add(%normfuse/v_3, %normfuse/const_4)
  %normfuse/v_6: f32[4, 1] = rsqrt(%normfuse/v_5)
  %normfuse/v_7: f32[4, 64] = mul(%normfuse/v_1, %normfuse/v_6)
  %normfuse/v_8: f32[4, 64] = mul(%normfuse/v_7, %weight0)
  output %normfuse/v_8 as "y0"
end
body &body~2
  opset "" 20
  input %x: f32[4, 64]
  input %residual: f32[4, 64]
  input %weight0: f32[64]
  %normfuse/v_1: f32[4, 64] = cast(%x) {to=f32, saturate=true}
  %normfuse/v_2: f32[4, 64] = add(%normfuse/v_1, %residual)
  %normfuse/v_3: f32[4, 64] = mul(%normfuse/v_2, %normfuse/v_2)
  %normfuse/v_4: f32[4, 1] = reduce_mean(%normfuse/v_3) {axes=[-1], keepdims=true}
  const %normfuse/const_5: f32[] = 1e-6
  %normfuse/v_6: f32[4, 1] = add(%normfuse/v_4, %normfuse/const_5)
  %normfuse/v_7: f32[4, 1] = rsqrt(%normfuse/v_6)
  %normfuse/v_8: f32[4, 64] = mul(%normfuse/v_2, %normfuse/v_7)
  %normfuse/v_9: f32[4, 64] = mul(%normfuse/v_8, %weight0)
  output %normfuse/v_9 as "y0"
end
graph "siblings_cast_between"
opset "" 20
input %x: f32[4, 64]
const %wa: f32[64] = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
const %wb: f32[64] = [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]
%a: f32[4, 64] = fused_norm(%x, %wa) {prologue=none, source=shared, emit_sum=false, siblings=[{width=64, input=f32, compute=f32, eps=1e-6, root=rsqrt, normed=f32, weight={dtype=f32, plus_one=false}, output=f32, emit_normed=true, epilogues=[]}]} @fused_norm/a_ms body &body from {replaced=[a_sq, a_ms, a_ve, a_r, a_n, a], rules=["cast-to-own-type", "mean-of-squares", "norm-by-rsqrt", "plus-eps", weight]}
%t: f32[4, 64] = tanh(%a)
%b: f32[4, 64] = fused_norm(%x, %t, %wb) {prologue={residual_add={dtype=f32}}, source=shared, emit_sum=false, siblings=[{width=64, input=f32, compute=f32, eps=1e-6, root=rsqrt, normed=f32, weight={dtype=f32, plus_one=false}, output=f32, emit_normed=true, epilogues=[]}]} @fused_norm/b_ms body &body~2 from {replaced=[h, b_sq, b_ms, b_ve, b_r, b_n, b], rules=["cast-to-own-type", "mean-of-squares", "norm-by-rsqrt", "plus-eps", residual, weight]}
output %b
