window.stepscopeFirst = { catalogue: {"rules":[{"name":"sgd","source":"Robbins & Monro 1951","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true}],"state":[]},{"name":"heavy_ball","source":"Polyak 1964","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"momentum","default":0.9,"low":0.0,"high":null,"open_end":true},{"name":"dampening","default":0.0,"low":null,"high":null,"open_end":true}],"state":["momentum_buffer"]},{"name":"nesterov","source":"Nesterov 1983","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"momentum","default":0.9,"low":0.0,"high":null,"open_end":true},{"name":"dampening","default":0.0,"low":null,"high":null,"open_end":true}],"state":["momentum_buffer"]},{"name":"adam","source":"Kingma & Ba 2015, Alg. 1; [balles2018, Eq. 4-9]","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_sq"]},{"name":"adamw","source":"Loshchilov & Hutter 2019, Alg. 2","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true},{"name":"weight_decay","default":0.01,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_sq"]},{"name":"adam_amsgrad","source":"Reddi et al. 2018, Alg. 2","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_sq","max_exp_avg_sq"]},{"name":"nadam","source":"Dozat 2016","hyper":[{"name":"lr","default":0.002,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true},{"name":"momentum_decay","default":0.004,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_sq"]},{"name":"radam","source":"Liu et al. 2020, Alg. 2","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_sq"]},{"name":"adamax","source":"Kingma & Ba 2015, Alg. 2","hyper":[{"name":"lr","default":0.002,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_inf"]},{"name":"rmsprop","source":"Tieleman & Hinton 2012","hyper":[{"name":"lr","default":0.01,"low":0.0,"high":null,"open_end":true},{"name":"alpha","default":0.99,"low":0.0,"high":1.0,"open_end":false},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["square_avg"]},{"name":"rmsprop_momentum","source":"Tieleman & Hinton 2012","hyper":[{"name":"lr","default":0.01,"low":0.0,"high":null,"open_end":true},{"name":"alpha","default":0.99,"low":0.0,"high":1.0,"open_end":false},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true},{"name":"momentum","default":0.9,"low":0.0,"high":null,"open_end":true}],"state":["square_avg","momentum_buffer"]},{"name":"rmsprop_centered","source":"Graves 2013, Eq. 38-41","hyper":[{"name":"lr","default":0.01,"low":0.0,"high":null,"open_end":true},{"name":"alpha","default":0.99,"low":0.0,"high":1.0,"open_end":false},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["square_avg","grad_avg"]},{"name":"rmsprop_centered_momentum","source":"Graves 2013, Eq. 38-41","hyper":[{"name":"lr","default":0.01,"low":0.0,"high":null,"open_end":true},{"name":"alpha","default":0.99,"low":0.0,"high":1.0,"open_end":false},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true},{"name":"momentum","default":0.9,"low":0.0,"high":null,"open_end":true}],"state":["square_avg","grad_avg","momentum_buffer"]},{"name":"adagrad","source":"Duchi et al. 2011","hyper":[{"name":"lr","default":0.01,"low":0.0,"high":null,"open_end":true},{"name":"lr_decay","default":0.0,"low":0.0,"high":null,"open_end":true},{"name":"eps","default":1e-10,"low":0.0,"high":null,"open_end":true}],"state":["sum"]},{"name":"adadelta","source":"Zeiler 2012, Alg. 1","hyper":[{"name":"lr","default":1.0,"low":0.0,"high":null,"open_end":true},{"name":"rho","default":0.9,"low":0.0,"high":1.0,"open_end":false},{"name":"eps","default":1e-06,"low":0.0,"high":null,"open_end":true}],"state":["square_avg","acc_delta"]},{"name":"msgd","source":"[balles2018, Alg. 2]","hyper":[{"name":"lr","default":0.1,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m"]},{"name":"ssd","source":"[balles2018, Sec. 1.2]","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true}],"state":[]},{"name":"mssd","source":"[balles2018, Alg. 2]","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m"]},{"name":"svag","source":"[balles2018, Eq. 23]","hyper":[{"name":"lr","default":0.1,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m","S"]},{"name":"msvag","source":"[balles2018, Alg. 1, Eq. 25]","hyper":[{"name":"lr","default":0.1,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m","S"]},{"name":"adam_erf","source":"[balles2018, Lemma 1, Eq. 16, for sign m: Sec. 4.3]","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m","S"]},{"name":"adam_erf_uncorrected","source":"[balles2018, Sec. 3.1: the optimum for sign g, which Adam approximates and applies to sign m]","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m","S"]},{"name":"adam_one_beta","source":"[balles2018, Eq. 8 with beta1 = beta2 and Eq. 22]","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m","S"]},{"name":"signum","source":"Bernstein et al. 2018, Alg. 2","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.9,"low":0.0,"high":1.0,"open_end":true}],"state":["m"]},{"name":"lion","source":"Chen et al. 2023, Alg. 2","hyper":[{"name":"lr","default":0.0001,"low":0.0,"high":null,"open_end":true},{"name":"beta","default":0.99,"low":0.0,"high":1.0,"open_end":true},{"name":"blend","default":0.9090909090909092,"low":0.0,"high":null,"open_end":true}],"state":["raw_m"]},{"name":"grams","source":"Cao et al. 2024, Alg. 1","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_sq"]},{"name":"adabelief","source":"Zhuang et al. 2020, Alg. 2","hyper":[{"name":"lr","default":0.001,"low":0.0,"high":null,"open_end":true},{"name":"beta1","default":0.9,"low":0.0,"high":1.0,"open_end":true},{"name":"beta2","default":0.999,"low":0.0,"high":1.0,"open_end":true},{"name":"eps","default":1e-08,"low":0.0,"high":null,"open_end":true}],"state":["exp_avg","exp_avg_var"]}],"landscapes":[{"name":"parabola","source":"[eigen2025, Sec. 4]","variables":["x"],"params":{"h":2.0},"start":[1.0],"minima":[[0.0]],"view":[[-2.0,2.0]]},{"name":"absolute","source":"one wall of the sharp valley","variables":["x"],"params":{},"start":[0.5],"minima":[[0.0]],"view":[[-1.0,1.0]]},{"name":"ellipse","source":"a quadratic with condition number kappa, turned by an angle","variables":["x","y"],"params":{"kappa":10.0,"angle":0.0},"start":[1.0,1.0],"minima":[[0.0,0.0]],"view":[[-2.0,2.0],[-2.0,2.0]]},{"name":"saddle","source":"[kaiser, Sec. 5]","variables":["x","y"],"params":{},"start":[0.001,1.0],"minima":[],"view":[[-1.0,1.0],[-1.0,1.0]]},{"name":"smooth_valley","source":"[kaiser, Sec. 6]","variables":["x","y"],"params":{"floor":0.001},"start":[0.5,0.9],"minima":[[0.0,0.0]],"view":[[-2.0,2.0],[-2.0,2.0]]},{"name":"sharp_valley","source":"[kaiser, Sec. 6]","variables":["x","y"],"params":{"floor":0.0001},"start":[0.5,0.9],"minima":[[0.0,0.0]],"view":[[-2.0,2.0],[-2.0,2.0]]},{"name":"flat","source":"[kaiser, Sec. 4]","variables":["x"],"params":{"slope":1.0,"edge":1.0},"start":[0.0],"minima":[],"view":[[-1.0,3.0]]},{"name":"plateau","source":"a bowl with a plain around it","variables":["x","y"],"params":{},"start":[4.0,3.0],"minima":[[0.0,0.0]],"view":[[-6.0,6.0],[-6.0,6.0]]},{"name":"ravine","source":"a narrow quadratic valley across both axes","variables":["x","y"],"params":{"kappa":100.0},"start":[-1.5,1.0],"minima":[[0.0,0.0]],"view":[[-2.0,2.0],[-2.0,2.0]]},{"name":"rosenbrock","source":"Rosenbrock 1960","variables":["x","y"],"params":{},"start":[-1.2,1.0],"minima":[[1.0,1.0]],"view":[[-2.0,2.0],[-1.0,3.0]]},{"name":"beale","source":"Beale 1958","variables":["x","y"],"params":{},"start":[1.0,1.0],"minima":[[3.0,0.5]],"view":[[-4.5,4.5],[-4.5,4.5]]},{"name":"himmelblau","source":"Himmelblau 1972","variables":["x","y"],"params":{},"start":[0.0,0.0],"minima":[[3.0,2.0],[-2.805118086952745,3.131312518250573],[-3.779310253377747,-3.28318599128617],[3.584428340330492,-1.848126526964404]],"view":[[-5.0,5.0],[-5.0,5.0]]},{"name":"rastrigin","source":"Rastrigin 1974","variables":["x","y"],"params":{},"start":[3.2,-2.7],"minima":[[0.0,0.0]],"view":[[-5.12,5.12],[-5.12,5.12]]},{"name":"booth","source":"Booth's function","variables":["x","y"],"params":{},"start":[-5.0,-5.0],"minima":[[1.0,3.0]],"view":[[-10.0,10.0],[-10.0,10.0]]},{"name":"styblinski_tang","source":"Styblinski & Tang 1990","variables":["x","y"],"params":{},"start":[0.0,4.0],"minima":[[-2.903534027771177,-2.903534027771177]],"view":[[-5.0,5.0],[-5.0,5.0]]},{"name":"ackley","source":"Ackley 1987","variables":["x","y"],"params":{},"start":[2.5,-1.5],"minima":[[0.0,0.0]],"view":[[-4.0,4.0],[-4.0,4.0]]},{"name":"monkey_saddle","source":"x^3 - 3 x y^2","variables":["x","y"],"params":{},"start":[0.1,0.5],"minima":[],"view":[[-1.5,1.5],[-1.5,1.5]]},{"name":"bumps","source":"a bowl with four Gaussian bumps","variables":["x","y"],"params":{"height":1.0},"start":[1.8,1.8],"minima":[],"view":[[-2.5,2.5],[-2.5,2.5]]},{"name":"line_fit","source":"[tutorial, linear regression]","variables":["w","b"],"params":{},"start":[0.0,0.0],"minima":[[2.0,1.0]],"view":[[-1.0,4.0],[-1.0,4.0]]},{"name":"logistic","source":"logistic regression of eight points","variables":["w1","w2"],"params":{},"start":[-1.0,2.0],"minima":[],"view":[[-3.0,5.0],[-3.0,5.0]]},{"name":"wilson","source":"[balles2018, Sec. 5], after Wilson et al. 2017","variables":["w1","w2","w3","w4","w5","w6","w7","w8","w9","w10"],"params":{},"start":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],"minima":[],"view":[[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0],[-1.0,1.0]]}]}, programs: {
"/api/landscape.js?landscape=ellipse": ({ fma, sign, min, max, rint, exponent, mantissa, pow2, power, normals, float32Product }) => {
  const sin = (x) => { const v7 = rint((x * 0.3183098861837907)); const v8 = (-v7); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return ((Math.abs(x) > 1e-08) ? (fma((v37 * v19), v18, v18) * (1 - (2 * Math.abs((v7 - (2 * rint((v7 * 0.5)))))))) : x); };
  const cos = (x) => { const v6 = rint(((x * 0.3183098861837907) - 0.5)); const v8 = (-(v6 + 0.5)); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return (fma((v37 * v19), v18, v18) * ((2 * Math.abs((v6 - (2 * rint((v6 * 0.5)))))) - 1)); };
  return {
    params: ["kappa", "angle"],
    of(C) {
      const c0 = C[0];
      const c1 = C[1];
      const k1 = cos(c1);
      const k2 = sin(c1);
      const k5 = (0.5 * c0);
      return {
        loss(x) {
          const v10 = ((k1 * x[0]) + (k2 * x[1]));
          const v15 = ((k1 * x[1]) - (k2 * x[0]));
          return (0.5 * ((c0 * (v10 * v10)) + (v15 * v15)));
        },
        gradient(x, out) {
          const v13 = (2 * (0.5 * ((k1 * x[1]) - (k2 * x[0]))));
          const v20 = (2 * (k5 * ((k1 * x[0]) + (k2 * x[1]))));
          out[0] = (((-v13) * k2) + (v20 * k1));
          out[1] = ((v13 * k1) + (v20 * k2));
        },
        curvature(x, out) {
          const v7 = (k1 * 2);
          const v8 = (v7 * k5);
          const v12 = (((-k2) * 2) * 0.5);
          const v20 = ((k2 * 2) * k5);
          const v22 = (v7 * 0.5);
          out[0] = ((v8 * k1) + ((-v12) * k2));
          out[1] = ((v8 * k2) + (v12 * k1));
          out[2] = ((v20 * k1) + ((-v22) * k2));
          out[3] = ((v20 * k2) + (v22 * k1));
        },
      };
    },
  };
},
"/api/path.js?rule=sgd&landscape=ellipse&noise=none": ({ fma, sign, min, max, rint, exponent, mantissa, pow2, power, normals, float32Product }) => {
  const sin = (x) => { const v7 = rint((x * 0.3183098861837907)); const v8 = (-v7); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return ((Math.abs(x) > 1e-08) ? (fma((v37 * v19), v18, v18) * (1 - (2 * Math.abs((v7 - (2 * rint((v7 * 0.5)))))))) : x); };
  const cos = (x) => { const v6 = rint(((x * 0.3183098861837907) - 0.5)); const v8 = (-(v6 + 0.5)); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return (fma((v37 * v19), v18, v18) * ((2 * Math.abs((v6 - (2 * rint((v6 * 0.5)))))) - 1)); };
  return {
    carried: ["theta.0", "theta.1"],
    columns: ["theta.0", "theta.1", "loss", "g.0", "g.1", "update.0", "update.1", "direction.0", "direction.1", "factor.0", "factor.1"],
    constants: ["hyper.lr", "param.angle", "param.kappa"],
    normals: 0,
    scalars: [],
    advance(S, t, end, every, last, C, T, key, rows) {
      let a0 = S[0];
      let a1 = S[1];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const v1 = cos(c1);
      const v2 = sin(c1);
      const v5 = (0.5 * c2);
      const v7 = (-c0);
      for (; ; t++) {
        const v13 = ((v1 * a1) - (v2 * a0));
        const v15 = (2 * (0.5 * v13));
        const v20 = ((v1 * a0) + (v2 * a1));
        const v22 = (2 * (v5 * v20));
        if (t % every === 0 || t === last) {
          const q = Math.ceil(t / every) * 3;
          rows[q + 0] = a0;
          rows[q + 1] = a1;
          rows[q + 2] = (0.5 * ((c2 * (v20 * v20)) + (v13 * v13)));
        }
        if (t >= end) break;
        const b0 = fma(v7, (((-v15) * v2) + (v22 * v1)), a0);
        const b1 = fma(v7, ((v15 * v1) + (v22 * v2)), a1);
        a0 = b0;
        a1 = b1;
      }
      S[0] = a0;
      S[1] = a1;
    },
    look(S, at, t, C, T, key, out) {
      const a0 = S[at + 0];
      const a1 = S[at + 1];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const v5 = cos(c1);
      const v7 = sin(c1);
      const v9 = ((v5 * a0) + (v7 * a1));
      const v14 = ((v5 * a1) - (v7 * a0));
      const v20 = (2 * (0.5 * v14));
      const v25 = (2 * ((0.5 * c2) * v9));
      const v27 = (((-v20) * v7) + (v25 * v5));
      const v30 = ((v20 * v5) + (v25 * v7));
      const v32 = (-c0);
      out[0] = a0;
      out[1] = a1;
      out[2] = (0.5 * ((c2 * (v9 * v9)) + (v14 * v14)));
      out[3] = v27;
      out[4] = v30;
      out[5] = (fma(v32, v27, a0) - a0);
      out[6] = (fma(v32, v30, a1) - a1);
      out[7] = v27;
      out[8] = v30;
      out[9] = 1;
      out[10] = 1;
    },
  };
},
"/api/path.js?rule=heavy_ball&landscape=ellipse&noise=none": ({ fma, sign, min, max, rint, exponent, mantissa, pow2, power, normals, float32Product }) => {
  const sin = (x) => { const v7 = rint((x * 0.3183098861837907)); const v8 = (-v7); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return ((Math.abs(x) > 1e-08) ? (fma((v37 * v19), v18, v18) * (1 - (2 * Math.abs((v7 - (2 * rint((v7 * 0.5)))))))) : x); };
  const cos = (x) => { const v6 = rint(((x * 0.3183098861837907) - 0.5)); const v8 = (-(v6 + 0.5)); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return (fma((v37 * v19), v18, v18) * ((2 * Math.abs((v6 - (2 * rint((v6 * 0.5)))))) - 1)); };
  return {
    carried: ["theta.0", "theta.1", "state.momentum_buffer.0", "state.momentum_buffer.1"],
    columns: ["theta.0", "theta.1", "loss", "g.0", "g.1", "update.0", "update.1", "direction.0", "direction.1", "factor.0", "factor.1", "mean.0", "mean.1", "momentum_buffer.0", "momentum_buffer.1"],
    constants: ["hyper.lr", "param.angle", "param.kappa"],
    normals: 0,
    scalars: [{ name: "carry", needs: ["momentum"], value: (t, momentum) => ((t === 1) ? 0 : momentum) }, { name: "fresh", needs: ["dampening"], value: (t, dampening) => ((t === 1) ? 1 : (1 - dampening)) }, { name: "total", needs: ["momentum", "dampening"], value: (t, momentum, dampening) => ((momentum === 1) ? (power(momentum, (t - 1)) + ((1 - dampening) * (t - 1))) : (power(momentum, (t - 1)) + ((1 - dampening) * ((1 - power(momentum, (t - 1))) / (1 - momentum))))) }],
    advance(S, t, end, every, last, C, T, key, rows) {
      let a0 = S[0];
      let a1 = S[1];
      let a2 = S[2];
      let a3 = S[3];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const T0 = T[0], n0 = T0.length - 1;
      const T1 = T[1], n1 = T1.length - 1;
      const T2 = T[2], n2 = T2.length - 1;
      const v1 = cos(c1);
      const v2 = sin(c1);
      const v5 = (0.5 * c2);
      const v7 = (-c0);
      for (; ; t++) {
        const s0 = T0[t < n0 ? t : n0];
        const s1 = T1[t < n1 ? t : n1];
        const s2 = T2[t < n2 ? t : n2];
        const v14 = ((v1 * a1) - (v2 * a0));
        const v16 = (2 * (0.5 * v14));
        const v21 = ((v1 * a0) + (v2 * a1));
        const v23 = (2 * (v5 * v21));
        const v29 = fma(s1, (((-v16) * v2) + (v23 * v1)), (s0 * a2));
        const v36 = fma(s1, ((v16 * v1) + (v23 * v2)), (s0 * a3));
        if (t % every === 0 || t === last) {
          const q = Math.ceil(t / every) * 5;
          rows[q + 0] = a0;
          rows[q + 1] = a1;
          rows[q + 2] = a2;
          rows[q + 3] = a3;
          rows[q + 4] = (0.5 * ((c2 * (v21 * v21)) + (v14 * v14)));
        }
        if (t >= end) break;
        const b0 = fma(v7, v29, a0);
        const b1 = fma(v7, v36, a1);
        const b2 = v29;
        const b3 = v36;
        a0 = b0;
        a1 = b1;
        a2 = b2;
        a3 = b3;
      }
      S[0] = a0;
      S[1] = a1;
      S[2] = a2;
      S[3] = a3;
    },
    look(S, at, t, C, T, key, out) {
      const a0 = S[at + 0];
      const a1 = S[at + 1];
      const a2 = S[at + 2];
      const a3 = S[at + 3];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const T0 = T[0], n0 = T0.length - 1;
      const T1 = T[1], n1 = T1.length - 1;
      const T2 = T[2], n2 = T2.length - 1;
      const s0 = T0[t < n0 ? t : n0];
      const s1 = T1[t < n1 ? t : n1];
      const s2 = T2[t < n2 ? t : n2];
      const v5 = cos(c1);
      const v7 = sin(c1);
      const v9 = ((v5 * a0) + (v7 * a1));
      const v14 = ((v5 * a1) - (v7 * a0));
      const v20 = (2 * (0.5 * v14));
      const v25 = (2 * ((0.5 * c2) * v9));
      const v27 = (((-v20) * v7) + (v25 * v5));
      const v30 = ((v20 * v5) + (v25 * v7));
      const v32 = (-c0);
      const v37 = fma(s1, v27, (s0 * a2));
      const v42 = fma(s1, v30, (s0 * a3));
      out[0] = a0;
      out[1] = a1;
      out[2] = (0.5 * ((c2 * (v9 * v9)) + (v14 * v14)));
      out[3] = v27;
      out[4] = v30;
      out[5] = (fma(v32, v37, a0) - a0);
      out[6] = (fma(v32, v42, a1) - a1);
      out[7] = v37;
      out[8] = v42;
      out[9] = 1;
      out[10] = 1;
      out[11] = (v37 / s2);
      out[12] = (v42 / s2);
      out[13] = v37;
      out[14] = v42;
    },
  };
},
"/api/path.js?rule=rmsprop&landscape=ellipse&noise=none": ({ fma, sign, min, max, rint, exponent, mantissa, pow2, power, normals, float32Product }) => {
  const sin = (x) => { const v7 = rint((x * 0.3183098861837907)); const v8 = (-v7); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return ((Math.abs(x) > 1e-08) ? (fma((v37 * v19), v18, v18) * (1 - (2 * Math.abs((v7 - (2 * rint((v7 * 0.5)))))))) : x); };
  const cos = (x) => { const v6 = rint(((x * 0.3183098861837907) - 0.5)); const v8 = (-(v6 + 0.5)); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return (fma((v37 * v19), v18, v18) * ((2 * Math.abs((v6 - (2 * rint((v6 * 0.5)))))) - 1)); };
  return {
    carried: ["theta.0", "theta.1", "state.square_avg.0", "state.square_avg.1"],
    columns: ["theta.0", "theta.1", "loss", "g.0", "g.1", "update.0", "update.1", "direction.0", "direction.1", "factor.0", "factor.1", "square_avg.0", "square_avg.1"],
    constants: ["hyper.alpha", "hyper.eps", "hyper.lr", "param.angle", "param.kappa"],
    normals: 0,
    scalars: [],
    advance(S, t, end, every, last, C, T, key, rows) {
      let a0 = S[0];
      let a1 = S[1];
      let a2 = S[2];
      let a3 = S[3];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const c3 = C[3];
      const c4 = C[4];
      const v1 = cos(c3);
      const v2 = sin(c3);
      const v5 = (0.5 * c4);
      const v7 = (-c2);
      const v10 = (1 - c0);
      for (; ; t++) {
        const v16 = ((v1 * a1) - (v2 * a0));
        const v18 = (2 * (0.5 * v16));
        const v23 = ((v1 * a0) + (v2 * a1));
        const v25 = (2 * (v5 * v23));
        const v27 = (((-v18) * v2) + (v25 * v1));
        const v32 = fma((v10 * v27), v27, (c0 * a2));
        const v40 = ((v18 * v1) + (v25 * v2));
        const v45 = fma((v10 * v40), v40, (c0 * a3));
        if (t % every === 0 || t === last) {
          const q = Math.ceil(t / every) * 5;
          rows[q + 0] = a0;
          rows[q + 1] = a1;
          rows[q + 2] = a2;
          rows[q + 3] = a3;
          rows[q + 4] = (0.5 * ((c4 * (v23 * v23)) + (v16 * v16)));
        }
        if (t >= end) break;
        const b0 = (a0 + ((v7 * v27) / (Math.sqrt(v32) + c1)));
        const b1 = (a1 + ((v7 * v40) / (Math.sqrt(v45) + c1)));
        const b2 = v32;
        const b3 = v45;
        a0 = b0;
        a1 = b1;
        a2 = b2;
        a3 = b3;
      }
      S[0] = a0;
      S[1] = a1;
      S[2] = a2;
      S[3] = a3;
    },
    look(S, at, t, C, T, key, out) {
      const a0 = S[at + 0];
      const a1 = S[at + 1];
      const a2 = S[at + 2];
      const a3 = S[at + 3];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const c3 = C[3];
      const c4 = C[4];
      const v5 = cos(c3);
      const v7 = sin(c3);
      const v9 = ((v5 * a0) + (v7 * a1));
      const v14 = ((v5 * a1) - (v7 * a0));
      const v20 = (2 * (0.5 * v14));
      const v25 = (2 * ((0.5 * c4) * v9));
      const v27 = (((-v20) * v7) + (v25 * v5));
      const v30 = ((v20 * v5) + (v25 * v7));
      const v32 = (-c2);
      const v36 = (1 - c0);
      const v40 = fma((v36 * v27), v27, (c0 * a2));
      const v43 = (Math.sqrt(v40) + c1);
      const v51 = fma((v36 * v30), v30, (c0 * a3));
      const v53 = (Math.sqrt(v51) + c1);
      const v60 = (v43 > 0);
      const v65 = (v53 > 0);
      out[0] = a0;
      out[1] = a1;
      out[2] = (0.5 * ((c4 * (v9 * v9)) + (v14 * v14)));
      out[3] = v27;
      out[4] = v30;
      out[5] = ((a0 + ((v32 * v27) / v43)) - a0);
      out[6] = ((a1 + ((v32 * v30) / v53)) - a1);
      out[7] = sign(v27);
      out[8] = sign(v30);
      out[9] = (v60 ? (Math.abs(v27) / (v60 ? v43 : 1)) : 0);
      out[10] = (v65 ? (Math.abs(v30) / (v65 ? v53 : 1)) : 0);
      out[11] = v40;
      out[12] = v51;
    },
  };
},
"/api/path.js?rule=adam&landscape=ellipse&noise=none": ({ fma, sign, min, max, rint, exponent, mantissa, pow2, power, normals, float32Product }) => {
  const sin = (x) => { const v7 = rint((x * 0.3183098861837907)); const v8 = (-v7); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return ((Math.abs(x) > 1e-08) ? (fma((v37 * v19), v18, v18) * (1 - (2 * Math.abs((v7 - (2 * rint((v7 * 0.5)))))))) : x); };
  const cos = (x) => { const v6 = rint(((x * 0.3183098861837907) - 0.5)); const v8 = (-(v6 + 0.5)); const v18 = max(min(fma(v8, (-2.9947698097183397e-33), fma(v8, 1.2246467991473532e-16, fma(v8, 3.141592653589793, x))), 1.5707963267948966), (-1.5707963267948966)); const v19 = (v18 * v18); const v27 = fma(fma(fma(fma(1.9572941063391263e-20, v19, (-8.22063524662433e-18)), v19, 2.8114572543455206e-15), v19, (-7.647163731819816e-13)), v19, 1.6059043836821613e-10); const v37 = fma(fma(fma(fma(fma(v27, v19, (-2.505210838544172e-08)), v19, 2.7557319223985893e-06), v19, (-0.0001984126984126984)), v19, 0.008333333333333333), v19, (-0.16666666666666666)); return (fma((v37 * v19), v18, v18) * ((2 * Math.abs((v6 - (2 * rint((v6 * 0.5)))))) - 1)); };
  return {
    carried: ["theta.0", "theta.1", "state.exp_avg.0", "state.exp_avg_sq.0", "state.exp_avg.1", "state.exp_avg_sq.1"],
    columns: ["theta.0", "theta.1", "loss", "g.0", "g.1", "update.0", "update.1", "direction.0", "direction.1", "factor.0", "factor.1", "mean.0", "mean.1", "variance.0", "variance.1", "spread.0", "spread.1", "exp_avg.0", "exp_avg.1", "exp_avg_sq.0", "exp_avg_sq.1"],
    constants: ["hyper.beta1", "hyper.beta2", "hyper.eps", "hyper.lr", "param.angle", "param.kappa"],
    normals: 0,
    scalars: [{ name: "correction1", needs: ["beta1"], value: (t, beta1) => (1 - power(beta1, t)) }, { name: "correction2", needs: ["beta2"], value: (t, beta2) => (1 - power(beta2, t)) }, { name: "root2", needs: ["beta2"], value: (t, beta2) => Math.sqrt((1 - power(beta2, t))) }],
    advance(S, t, end, every, last, C, T, key, rows) {
      let a0 = S[0];
      let a1 = S[1];
      let a2 = S[2];
      let a3 = S[3];
      let a4 = S[4];
      let a5 = S[5];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const c3 = C[3];
      const c4 = C[4];
      const c5 = C[5];
      const T0 = T[0], n0 = T0.length - 1;
      const T1 = T[1], n1 = T1.length - 1;
      const T2 = T[2], n2 = T2.length - 1;
      const v1 = cos(c4);
      const v2 = sin(c4);
      const v5 = (0.5 * c5);
      const v8 = (1 - c0);
      const v9 = (v8 < 0.5);
      const v11 = (v9 ? v8 : (v8 - 1));
      const v13 = (1 - c1);
      for (; ; t++) {
        const s0 = T0[t < n0 ? t : n0];
        const s1 = T1[t < n1 ? t : n1];
        const s2 = T2[t < n2 ? t : n2];
        const v18 = (-(c3 / s0));
        const v23 = ((v1 * a1) - (v2 * a0));
        const v25 = (2 * (0.5 * v23));
        const v30 = ((v1 * a0) + (v2 * a1));
        const v32 = (2 * (v5 * v30));
        const v34 = (((-v25) * v2) + (v32 * v1));
        const v38 = fma(v11, (v34 - a2), (v9 ? a2 : v34));
        const v43 = fma((v13 * v34), v34, (c1 * a3));
        const v53 = ((v25 * v1) + (v32 * v2));
        const v57 = fma(v11, (v53 - a4), (v9 ? a4 : v53));
        const v62 = fma((v13 * v53), v53, (c1 * a5));
        if (t % every === 0 || t === last) {
          const q = Math.ceil(t / every) * 7;
          rows[q + 0] = a0;
          rows[q + 1] = a1;
          rows[q + 2] = a2;
          rows[q + 3] = a3;
          rows[q + 4] = a4;
          rows[q + 5] = a5;
          rows[q + 6] = (0.5 * ((c5 * (v30 * v30)) + (v23 * v23)));
        }
        if (t >= end) break;
        const b0 = (a0 + ((v18 * v38) / ((Math.sqrt(v43) / s2) + c2)));
        const b1 = (a1 + ((v18 * v57) / ((Math.sqrt(v62) / s2) + c2)));
        const b2 = v38;
        const b3 = v43;
        const b4 = v57;
        const b5 = v62;
        a0 = b0;
        a1 = b1;
        a2 = b2;
        a3 = b3;
        a4 = b4;
        a5 = b5;
      }
      S[0] = a0;
      S[1] = a1;
      S[2] = a2;
      S[3] = a3;
      S[4] = a4;
      S[5] = a5;
    },
    look(S, at, t, C, T, key, out) {
      const a0 = S[at + 0];
      const a1 = S[at + 1];
      const a2 = S[at + 2];
      const a3 = S[at + 3];
      const a4 = S[at + 4];
      const a5 = S[at + 5];
      const c0 = C[0];
      const c1 = C[1];
      const c2 = C[2];
      const c3 = C[3];
      const c4 = C[4];
      const c5 = C[5];
      const T0 = T[0], n0 = T0.length - 1;
      const T1 = T[1], n1 = T1.length - 1;
      const T2 = T[2], n2 = T2.length - 1;
      const s0 = T0[t < n0 ? t : n0];
      const s1 = T1[t < n1 ? t : n1];
      const s2 = T2[t < n2 ? t : n2];
      const v5 = cos(c4);
      const v7 = sin(c4);
      const v9 = ((v5 * a0) + (v7 * a1));
      const v14 = ((v5 * a1) - (v7 * a0));
      const v20 = (2 * (0.5 * v14));
      const v25 = (2 * ((0.5 * c5) * v9));
      const v27 = (((-v20) * v7) + (v25 * v5));
      const v30 = ((v20 * v5) + (v25 * v7));
      const v34 = (-(c3 / s0));
      const v37 = (1 - c0);
      const v38 = (v37 < 0.5);
      const v40 = (v38 ? v37 : (v37 - 1));
      const v44 = fma(v40, (v27 - a2), (v38 ? a2 : v27));
      const v47 = (1 - c1);
      const v51 = fma((v47 * v27), v27, (c1 * a3));
      const v63 = fma(v40, (v30 - a4), (v38 ? a4 : v30));
      const v68 = fma((v47 * v30), v30, (c1 * a5));
      const v75 = (v44 / s0);
      const v77 = (v63 / s0);
      const v80 = (v51 / s1);
      const v82 = (Math.sqrt(v80) + c2);
      const v84 = (v82 > 0);
      const v85 = Math.abs(v75);
      const v89 = (v68 / s1);
      const v91 = (Math.sqrt(v89) + c2);
      const v92 = (v91 > 0);
      const v93 = Math.abs(v77);
      const v98 = (v80 - (v75 * v75));
      const v100 = (v89 - (v77 * v77));
      out[0] = a0;
      out[1] = a1;
      out[2] = (0.5 * ((c5 * (v9 * v9)) + (v14 * v14)));
      out[3] = v27;
      out[4] = v30;
      out[5] = ((a0 + ((v34 * v44) / ((Math.sqrt(v51) / s2) + c2))) - a0);
      out[6] = ((a1 + ((v34 * v63) / ((Math.sqrt(v68) / s2) + c2))) - a1);
      out[7] = sign(v75);
      out[8] = sign(v77);
      out[9] = (v84 ? (v85 / (v84 ? v82 : 1)) : 0);
      out[10] = (v92 ? (v93 / (v92 ? v91 : 1)) : 0);
      out[11] = v75;
      out[12] = v77;
      out[13] = v98;
      out[14] = v100;
      out[15] = (Math.sqrt(((v98 > 0) ? v98 : 0)) / v85);
      out[16] = (Math.sqrt(((v100 > 0) ? v100 : 0)) / v93);
      out[17] = v44;
      out[18] = v63;
      out[19] = v51;
      out[20] = v68;
    },
  };
},
"/api/curves.js": ({ fma, sign, min, max, rint, exponent, mantissa, pow2, power, normals, float32Product }) => {
  const erf = (x) => { const v1 = Math.abs(x); const v5 = (x * x); const v13 = fma(fma(fma(fma((-2.3784598852774293e-19), v5, 4.763348040515068e-18), v5, (-9.063970842808673e-17)), v5, 1.6342614095367152e-15), v5, (-2.7835162072109212e-14)); const v23 = fma(fma(fma(fma(fma(v13, v5, 4.4632242632864775e-13), v5, (-6.7113668551641105e-12)), v5, 9.422759064650411e-11), v5, (-1.2290555301717926e-09)), v5, 1.4807192815879218e-08); const v33 = fma(fma(fma(fma(fma(v23, v5, (-1.6365844691234924e-07)), v5, 1.6462114365889246e-06), v5, (-1.492565035840625e-05)), v5, 0.00012055332981789664), v5, (-0.0008548327023450852)); const v44 = (x * fma(fma(fma(fma(fma(v33, v5, 0.005223977625442188), v5, (-0.026866170645131252)), v5, 0.11283791670955126), v5, (-0.37612638903183754)), v5, 1.1283791670955126)); const v47 = min(v1, 6); const v49 = (-(v47 * v47)); const v58 = rint((v49 * 1.4426950408889634)); const v64 = ((v58 > (-2044)) ? ((v58 < 2046) ? v58 : 2046) : (-2044)); const v65 = (-v64); const v69 = fma(v65, 1.9082149292705877e-10, fma(v65, 0.6931471803691238, v49)); const v81 = fma(fma(fma(fma(fma(1.6059043836821613e-10, v69, 2.08767569878681e-09), v69, 2.505210838544172e-08), v69, 2.755731922398589e-07), v69, 2.7557319223985893e-06), v69, 2.48015873015873e-05); const v91 = fma(fma(fma(fma(fma(v81, v69, 0.0001984126984126984), v69, 0.001388888888888889), v69, 0.008333333333333333), v69, 0.041666666666666664), v69, 0.16666666666666666); const v97 = rint((v64 * 0.5)); const v109 = ((v47 - 2) / (v47 + 2)); const v117 = fma(fma(fma(fma((-2.22812957637235e-07), v109, 4.146302183268488e-06), v109, 1.859427387429402e-06), v109, (-1.4166339069117108e-05)), v109, (-2.7640727821912852e-05)); const v127 = fma(fma(fma(fma(fma(v117, v109, 2.7560352756678313e-05), v109, 0.00017436477257256738), v109, 4.355265359817883e-05), v109, (-0.0009819771114740715)), v109, (-0.0008471431229415333)); const v137 = fma(fma(fma(fma(fma(v127, v109, 0.006997461739200575), v109, 0.0037328924016564484), v109, (-0.07897858101571269)), v109, 0.24165819424248763), v109, (-0.4271858474139585)); const v140 = (((v49 > 709.782712893384) ? Infinity : ((v49 < (-745.1332191019412)) ? 0 : (((1 + fma((v69 * v69), fma(v91, v69, 0.5), v69)) * pow2(v97)) * pow2((v64 - v97))))) * fma(v137, v109, 0.2553956763105057)); return ((v1 < 1) ? v44 : (sign(x) * (1 - v140))); };
  return {
    adam_factor(x) {
      return (1 / Math.sqrt((1 + (x * x))));
    },
    svag_factor(x) {
      return (1 / (1 + (x * x)));
    },
    exact_factor(x) {
      const v1 = (x * x);
      const v3 = (v1 > 0);
      return (v3 ? erf((1 / (1.4142135623730951 * Math.sqrt((v3 ? v1 : 1))))) : 1);
    },
    average_limit(x) {
      return ((2 + (2 * x)) / (1 - x));
    },
    buffer_limit(x) {
      return (2 * (1 + x));
    },
  };
}
} };
