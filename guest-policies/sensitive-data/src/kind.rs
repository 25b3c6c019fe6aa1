//! The kinds of data that are looked for, what a message calls them, and what is done about each when nothing is
//! configured.
//!
//! The names are part of the configuration's format: they are never renamed, only added to.

/// What a text can hold. The order is that of [`ABOUT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    AwsAccessKeyId,
    AwsSecretAccessKey,
    GithubToken,
    GitlabToken,
    SlackToken,
    StripeKey,
    GoogleKey,
    OpenaiKey,
    AnthropicKey,
    NpmToken,
    PypiToken,
    VendorToken,
    PrivateKey,
    Jwt,
    UrlCredentials,
    CredentialAssignment,
    CreditCard,
    Iban,
    UsSsn,
    Email,
    Phone,
    Ipv4,
    Ipv6,
}

/// How many kinds there are.
pub(crate) const COUNT: usize = ABOUT.len();

/// Kinds that are configured by one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Secrets,
    Personal,
}

/// What is done about a kind that was found, from the mildest to the hardest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// It is not even looked for.
    Off,
    /// It is looked for and noted in the log; the call passes.
    Allow,
    Escalate,
    Deny,
}

pub(crate) struct About {
    kind: Kind,
    pub(crate) name: &'static str,
    /// In a sentence: "holds ...".
    pub(crate) words: &'static str,
    group: Group,
    default: Action,
}

const fn secret(kind: Kind, name: &'static str, words: &'static str) -> About {
    About { kind, name, words, group: Group::Secrets, default: Action::Deny }
}

const fn personal(kind: Kind, name: &'static str, words: &'static str, default: Action) -> About {
    About { kind, name, words, group: Group::Personal, default }
}

pub(crate) const ABOUT: [About; 23] = [
    secret(Kind::AwsAccessKeyId, "aws-access-key-id", "an AWS access key id"),
    secret(Kind::AwsSecretAccessKey, "aws-secret-access-key", "an AWS secret access key"),
    secret(Kind::GithubToken, "github-token", "a GitHub token"),
    secret(Kind::GitlabToken, "gitlab-token", "a GitLab token"),
    secret(Kind::SlackToken, "slack-token", "a Slack token"),
    secret(Kind::StripeKey, "stripe-key", "a Stripe key"),
    secret(Kind::GoogleKey, "google-key", "a Google key"),
    secret(Kind::OpenaiKey, "openai-key", "an OpenAI key"),
    secret(Kind::AnthropicKey, "anthropic-key", "an Anthropic key"),
    secret(Kind::NpmToken, "npm-token", "an npm token"),
    secret(Kind::PypiToken, "pypi-token", "a PyPI token"),
    secret(Kind::VendorToken, "vendor-token", "a vendor's token"),
    secret(Kind::PrivateKey, "private-key", "a private key"),
    secret(Kind::Jwt, "jwt", "a signed token"),
    secret(Kind::UrlCredentials, "url-credentials", "a password in a URL"),
    secret(Kind::CredentialAssignment, "credential-assignment", "a credential"),
    personal(Kind::CreditCard, "credit-card", "a card number", Action::Escalate),
    personal(Kind::Iban, "iban", "an IBAN", Action::Escalate),
    personal(Kind::UsSsn, "us-ssn", "a US social security number", Action::Escalate),
    personal(Kind::Email, "email", "an e-mail address", Action::Off),
    personal(Kind::Phone, "phone", "a phone number", Action::Off),
    personal(Kind::Ipv4, "ipv4", "an IPv4 address", Action::Off),
    personal(Kind::Ipv6, "ipv6", "an IPv6 address", Action::Off),
];

impl Kind {
    pub(crate) fn about(self) -> &'static About {
        &ABOUT[self as usize]
    }
}

/// A kind or a group of kinds, as configurations name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    One(Kind),
    Group(Group),
}

impl Named {
    pub(crate) fn new(name: &str) -> Option<Self> {
        match name {
            "secrets" => Some(Named::Group(Group::Secrets)),
            "personal" => Some(Named::Group(Group::Personal)),
            _ => ABOUT.iter().find(|about| about.name == name).map(|about| Named::One(about.kind)),
        }
    }

    pub(crate) fn kinds(self) -> Kinds {
        let mut kinds = Kinds::default();
        for about in &ABOUT {
            let is = match self {
                Named::One(kind) => kind == about.kind,
                Named::Group(group) => group == about.group,
            };
            if is {
                kinds.insert(about.kind);
            }
        }
        kinds
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u32);

impl Kinds {
    pub(crate) const ALL: Kinds = Kinds((1 << COUNT) - 1);

    pub(crate) fn insert(&mut self, kind: Kind) {
        self.0 |= 1 << kind as u32;
    }

    pub(crate) fn has(self, kind: Kind) -> bool {
        self.0 >> (kind as u32) & 1 == 1
    }

    pub(crate) fn with(self, others: Kinds) -> Kinds {
        Kinds(self.0 | others.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What is done about each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actions([Action; COUNT]);

impl Actions {
    pub(crate) fn of(&self, kind: Kind) -> Action {
        self.0[kind as usize]
    }

    pub(crate) fn set(&mut self, kinds: Kinds, action: Action) {
        for about in ABOUT.iter().filter(|about| kinds.has(about.kind)) {
            self.0[about.kind as usize] = action;
        }
    }

    /// The kinds to look for.
    pub(crate) fn sought(&self) -> Kinds {
        let mut kinds = Kinds::default();
        for about in ABOUT.iter().filter(|about| self.of(about.kind) != Action::Off) {
            kinds.insert(about.kind);
        }
        kinds
    }
}

impl Default for Actions {
    fn default() -> Self {
        let mut actions = [Action::Off; COUNT];
        for about in &ABOUT {
            actions[about.kind as usize] = about.default;
        }
        Self(actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (index, about) in ABOUT.iter().enumerate() {
            assert_eq!(about.kind as usize, index, "{}", about.name);
            assert_eq!(Named::new(about.name), Some(Named::One(about.kind)));
        }
        let all = Named::Group(Group::Secrets).kinds().with(Named::Group(Group::Personal).kinds());
        assert_eq!(all, Kinds::ALL);
    }
}
