//! Checks whether Kafka allows this user the operations that a program needs later.

use crate::{Resource, Right};
use runtime::config::KafkaSettings;
use runtime::doctor::Check;

/// The name of the check.
const NAME: &str = "rights";

/// Checks the rights in `wanted`; `untold` names the rights that Kafka never reports. Blocks.
pub fn rights(settings: &KafkaSettings, wanted: &[(Resource, &[Right])], untold: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    let (mut lacking, mut unknown) = (Vec::new(), Vec::new());
    for (resource, rights) in wanted {
        match crate::rights(settings, resource) {
            Ok(Some(has)) => {
                let missing = rights.iter().filter(|right| !has.contains(right));
                lacking.extend(missing.map(|right| format!("{} on {resource}", right.name())));
            }
            Ok(None) => unknown.push(resource.to_string()),
            Err(error) => checks.push(Check::failed(NAME, &error)),
        }
    }
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        let remedy = format!("allow the user of kafka.sasl_username: ACL {lacking}");
        checks.push(Check::bad(NAME, format!("Kafka does not allow this user {lacking}"), remedy));
    } else if checks.is_empty() && unknown.is_empty() && !wanted.is_empty() {
        let resources: Vec<String> = wanted.iter().map(|(resource, _)| resource.to_string()).collect();
        checks.push(Check::good(NAME, format!("Kafka allows what is needed on {}", resources.join(", "))));
    }
    unknown.push(untold.to_owned());
    checks.push(Check::note(
        NAME,
        format!(
            "not checked, as Kafka does not tell it: {}. A start without it stops and names it",
            unknown.join(", ")
        ),
    ));
    checks
}
