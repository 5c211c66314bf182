//! A seccomp profile in Docker's format, checked at the door and rendered for whoever enforces it.
//!
//! Docker takes the profile's own JSON; runsc takes the OCI form, which knows no conditions: those are decided here for
//! this machine's architecture and a process without capabilities. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::protocol::Isolation;

/// A profile that can be enforced.
#[derive(Clone, Debug)]
pub struct Profile {
    text: String,
    parsed: Parsed,
}

/// A text that is no profile; the message says what it lacks.
#[derive(Debug, thiserror::Error)]
#[error("{0}\nhint: `seccomp/README.md` says how to adapt a profile")]
pub struct ProfileError(String);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with `defaultAction` and `syscalls`")]
struct Parsed {
    default_action: Action,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
    #[serde(default, rename = "comment")]
    _comment: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    /// gVisor's own kernel is none of these; a rule for a newer kernel is taken for one that applies.
    #[serde(default, rename = "minKernel")]
    _min_kernel: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Comparison,
}

/// What Docker's format calls the actions; a misspelt one must not become a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Comparison {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// When the text is not JSON of that shape; the message quotes the field or value and its place.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let parsed: Parsed = serde_json::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
        if let Some(at) = parsed.syscalls.iter().position(|rule| rule.names.is_empty()) {
            return Err(ProfileError(format!("`syscalls[{at}].names` is empty; name at least one system call")));
        }
        Ok(Self { text: text.to_owned(), parsed })
    }

    /// As Docker's API takes it, for a sandbox with this isolation.
    pub(super) fn docker(&self, isolation: Isolation) -> String {
        match isolation {
            Isolation::Gvisor => self.text.clone(),
            Isolation::Container => self.without_clone3(),
        }
    }

    /// Whether a call of clone3 makes namespaces stands in memory, where no filter sees it. In gVisor those would be
    /// the Sentry's own; on the machine's kernel the answer is "no such call", on which libc takes clone, which the
    /// profile filters. (gVisor cannot have this: there the errno arrives as another, and threads would fail.)
    fn without_clone3(&self) -> String {
        let mut profile: Value = serde_json::from_str(&self.text).expect("it was parsed before");
        if let Some(rules) = profile["syscalls"].as_array_mut() {
            for names in rules.iter_mut().filter_map(|rule| rule["names"].as_array_mut()) {
                names.retain(|name| name != "clone3");
            }
            rules.retain(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()));
            rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": rustix::io::Errno::NOSYS.raw_os_error()}));
        }
        profile.to_string()
    }

    /// As `linux.seccomp` of an OCI runtime specification, for this machine.
    pub(super) fn oci(&self) -> Value {
        let parsed = &self.parsed;
        let here = native_architecture();
        let mapped = parsed.arch_map.iter().filter(|entry| entry.architecture == here);
        let mapped = mapped.flat_map(|entry| std::iter::once(&entry.architecture).chain(&entry.sub_architectures));
        let architectures: Vec<_> = parsed.architectures.iter().chain(mapped).collect();
        let mut seccomp = json!({"defaultAction": parsed.default_action, "architectures": architectures});
        if let Some(errno) = parsed.default_errno_ret {
            seccomp["defaultErrnoRet"] = errno.into();
        }
        seccomp["syscalls"] = parsed.syscalls.iter().filter(|rule| rule.applies()).map(Rule::oci).collect();
        seccomp
    }
}

impl Rule {
    /// A process without capabilities never meets a rule that wants one.
    fn applies(&self) -> bool {
        let here = std::env::consts::ARCH;
        let names_us = |arches: &[String]| {
            arches.iter().any(|arch| match arch.as_str() {
                "amd64" | "x86_64" => here == "x86_64",
                "arm64" | "aarch64" => here == "aarch64",
                _ => false,
            })
        };
        self.includes.caps.is_empty()
            && (self.includes.arches.is_empty() || names_us(&self.includes.arches))
            && !names_us(&self.excludes.arches)
    }

    fn oci(&self) -> Value {
        let mut rule = json!({"names": self.names, "action": self.action});
        if let Some(errno) = self.errno_ret {
            rule["errnoRet"] = errno.into();
        }
        if !self.args.is_empty() {
            rule["args"] = json!(self.args);
        }
        rule
    }
}

fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "SCMP_ARCH_AARCH64",
        _ => "SCMP_ARCH_X86_64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_profile_keeps_every_rule() {
        let text = include_str!("../../seccomp/default.json");
        let oci = Profile::parse(text).expect("ours").oci();
        let rules = |value: &Value| value["syscalls"].as_array().map_or(0, Vec::len);
        assert_eq!(rules(&oci), rules(&serde_json::from_str(text).expect("JSON")));
        assert_eq!(oci["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(oci["architectures"], json!([native_architecture()]));
    }

    #[test]
    fn the_machines_kernel_knows_no_clone3() {
        let profile = Profile::parse(include_str!("../../seccomp/default.json")).expect("ours");
        let rules = |isolation| {
            let profile: Value = serde_json::from_str(&profile.docker(isolation)).expect("JSON");
            let rules = profile["syscalls"].as_array().expect("rules").clone();
            rules.into_iter().filter(|rule| rule["names"].to_string().contains("\"clone3\"")).collect::<Vec<_>>()
        };
        let [weak] = &rules(Isolation::Container)[..] else { panic!("one rule") };
        assert_eq!((&weak["action"], &weak["errnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(38)));
        assert_eq!(rules(Isolation::Gvisor)[0]["action"], "SCMP_ACT_ALLOW");
    }

    #[test]
    fn conditions_are_decided() {
        let text = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
        ]});
        let oci = Profile::parse(&text.to_string()).expect("a profile").oci();
        assert_eq!(oci["syscalls"], json!([{"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]));
    }

    #[test]
    fn what_is_no_profile_is_refused_with_its_place() {
        for (text, part) in [
            ("[]", "an object"),
            ("{}", "`defaultAction`"),
            (r#"{"defaultAction": "ALLOW"}"#, "`ALLOW`"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#, "`sycalls`"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]}"#,
                "`syscalls[0].names`",
            ),
        ] {
            let error = Profile::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
