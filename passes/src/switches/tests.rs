use super::*;

/// Rules as they may be one day: every scope covers something.
const RULES: [&str; 4] = ["rms_norm", "sibling_norm", "quant_token", "quant_group"];

fn resolve(flags: &[&str], environment: &[(&str, &str)]) -> Result<Resolution, SwitchError> {
    let named = |flag: &str| -> Vec<String> {
        flags.iter().filter_map(|f| f.strip_prefix(flag)).map(|rule| rule.trim().to_owned()).collect()
    };
    let environment: Vec<(String, String)> =
        environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    resolve_among(&RULES, &named(DISABLE), &named(ENABLE), &environment)
}

/// `rule by whom`, for every rule that is off.
fn off(flags: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let resolution = resolve(flags, environment).unwrap();
    resolution.disabled.iter().map(|(rule, by)| format!("{rule} by {by}")).collect()
}

const ALIAS: &str = "ATOM_ENABLE_RMSNORM_QUANT_FUSION";
const INPUT: &str = "ATOM_ENABLE_DS_INPUT_RMSNORM_QUANT_FUSION";
const LLAMA: &str = "ATOM_LLAMA_ENABLE_AITER_TRITON_FUSED_RMSNORM_QUANT";

#[test]
fn everything_is_on_by_default() {
    assert_eq!(resolve(&[], &[("PATH", "/bin"), ("ATOM_OTHER", "0")]).unwrap(), Resolution::default());
}

#[test]
fn values_are_these_six_and_nothing_else() {
    for (value, on) in
        [("1", true), ("true", true), ("ON", true), ("True", true), ("0", false), ("FALSE", false), ("Off", false)]
    {
        assert_eq!(off(&[], &[("NORMFUSE_RMS_NORM", value)]).is_empty(), on, "{value}");
    }
    for value in ["", " 1", "2", "yes", "no", "-0", "00", "1.0", "t", "ＯＮ"] {
        for variable in ["NORMFUSE_RMS_NORM", MASTER, ALIAS, INPUT, "ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION"] {
            // Also where a flag decides: what was meant is not known.
            let error = resolve(&["--disable rms_norm"], &[(variable, value)]).unwrap_err().to_string();
            assert_eq!(error, format!("{variable}: found `{value}`, expected 1, true, on, 0, false or off"));
        }
    }
}

#[test]
fn each_level_decides_over_those_below_it() {
    let all = |by: &str| RULES.map(|r| format!("{r} by {by}")).to_vec();
    let mut sorted = all(MASTER);
    sorted.sort();
    assert_eq!(off(&[], &[(MASTER, "0")]), sorted);

    // From the master up, each level says the opposite of the one below it.
    let mut environment = vec![(MASTER, "1"), (ALIAS, "0")];
    let mut sorted = all(ALIAS);
    sorted.sort();
    assert_eq!(off(&[], &environment), sorted);

    environment.push((LLAMA, "1"));
    assert_eq!(off(&[], &environment), [format!("rms_norm by {ALIAS}"), format!("sibling_norm by {ALIAS}")]);

    environment.push(("NORMFUSE_QUANT_GROUP", "0"));
    let group = off(&[], &environment);
    assert_eq!(group[0], "quant_group by NORMFUSE_QUANT_GROUP");
    assert_eq!(group.len(), 3);

    assert_eq!(off(&["--enable quant_group"], &environment).len(), 2);
    environment.push(("NORMFUSE_QUANT_TOKEN", "1"));
    assert!(off(&["--disable quant_token"], &environment).contains(&"quant_token by --disable".to_owned()));
}

#[test]
fn the_alias_of_the_master_counts_where_both_are_set_and_says_so() {
    assert_eq!(off(&[], &[(MASTER, "0"), (ALIAS, "1")]), [""; 0]);
    assert_eq!(off(&[], &[(MASTER, "1"), (ALIAS, "0")]).len(), RULES.len());
    let disagree = resolve(&[], &[(MASTER, "0"), (ALIAS, "1")]).unwrap();
    assert_eq!(
        disagree.warnings,
        [format!("{ALIAS} is deprecated: use {MASTER}; it overrides {MASTER}, which says otherwise")]
    );
    let agree = resolve(&[], &[(MASTER, "0"), (ALIAS, "0")]).unwrap();
    assert_eq!(agree.warnings, [format!("{ALIAS} is deprecated: use {MASTER}")]);
    // One that decides nothing overrides nothing.
    let flags = RULES.map(|r| format!("--enable {r}"));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let decided = resolve(&flags, &[(MASTER, "1"), (ALIAS, "0")]).unwrap();
    assert_eq!(decided.warnings, [format!("{ALIAS} is deprecated: use {MASTER}")]);
    assert!(decided.disabled.is_empty());
}

#[test]
fn of_two_deprecated_names_for_one_rule_off_counts() {
    for (input, llama) in [("0", "1"), ("1", "0")] {
        let by = if input == "0" { INPUT } else { LLAMA };
        assert_eq!(
            off(&[], &[(INPUT, input), (LLAMA, llama)]),
            [format!("quant_group by {by}"), format!("quant_token by {by}")]
        );
    }
}

#[test]
fn deprecated_names_without_a_rule_are_accepted_and_say_so() {
    let silent = resolve(&[], &[("ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION", "0")]).unwrap();
    assert!(silent.disabled.is_empty());
    assert_eq!(
        silent.warnings,
        ["ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION is deprecated, and no rule answers to it yet: it changes nothing"]
    );
    // With a rule of that name it answers, and nothing has to be changed here.
    assert_eq!(
        off(&[], &[("ATOM_ENABLE_DS_QKNORM_QUANT_FUSION", "0")]),
        ["sibling_norm by ATOM_ENABLE_DS_QKNORM_QUANT_FUSION"]
    );
}

#[test]
fn every_deprecated_name_warns_once_in_a_fixed_order() {
    let environment: Vec<(&str, &str)> = DEPRECATED.iter().map(|d| (d.variable, "0")).collect();
    let forward = resolve(&[], &environment).unwrap();
    assert_eq!(forward.warnings.len(), 7);
    for d in &DEPRECATED {
        let about = forward.warnings.iter().filter(|w| w.starts_with(&format!("{} ", d.variable))).count();
        assert_eq!(about, 1, "{}", d.variable);
    }
    let mut reversed = environment;
    reversed.reverse();
    assert_eq!(resolve(&[], &reversed).unwrap(), forward);
}

#[test]
fn settings_say_which_rules_they_decide() {
    let found = resolve(&["--disable rms_norm"], &[(MASTER, "0"), ("NORMFUSE_QUANT_GROUP", "on")]).unwrap();
    let shown: Vec<String> =
        found.settings.iter().map(|s| format!("{}={}: {}", s.by, s.on, s.decides.join(" "))).collect();
    assert_eq!(
        shown,
        [
            "--disable=false: rms_norm",
            "NORMFUSE_QUANT_GROUP=true: quant_group",
            "NORMFUSE_RMSNORM_QUANT_FUSION=false: sibling_norm quant_token"
        ]
    );
}

#[test]
fn misspelt_names_do_not_pass_in_silence() {
    let error = resolve(&["--enable rms"], &[]).unwrap_err().to_string();
    assert_eq!(error, format!("--enable rms: no such rule; rules: {}", RULES.join(", ")));
    let error = resolve(&["--disable rms_norm", "--enable rms_norm"], &[]).unwrap_err().to_string();
    assert_eq!(error, "--disable rms_norm and --enable rms_norm: use one of them");
    let typo = resolve(&[], &[("NORMFUSE_QUANT_GRUOP", "0")]).unwrap();
    assert_eq!(
        typo.warnings,
        [
            "NORMFUSE_QUANT_GRUOP is no switch and changes nothing; the nearest one is NORMFUSE_QUANT_GROUP, and `normfuse \
          rules` lists all of them"
        ]
    );
}

#[test]
fn names_of_variables_are_distinct() {
    let mut names: Vec<String> = rules::ALL.iter().map(|r| variable(r.name)).collect();
    names.push(MASTER.into());
    names.extend(DEPRECATED.iter().map(|d| d.variable.to_owned()));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(variable("quant_group"), "NORMFUSE_QUANT_GROUP");
}

#[test]
fn quantisers_of_every_rule_are_covered_by_their_deprecated_names() {
    let of = |variable| replacements(DEPRECATED.iter().find(|d| d.variable == variable).unwrap());
    assert_eq!(of(ALIAS), [MASTER]);
    assert!(of(INPUT).len() >= 3);
    for rule in ["STATIC", "TOKEN", "GROUP"] {
        assert!(of(INPUT).contains(&format!("NORMFUSE_QUANT_{rule}")), "{rule}");
        assert!(of(LLAMA).contains(&format!("NORMFUSE_QUANT_{rule}")), "{rule}");
    }
    assert!(!of(INPUT).contains(&"NORMFUSE_RMS_NORM".to_owned()));
}
