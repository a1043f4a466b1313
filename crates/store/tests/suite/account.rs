//! Accounts, tokens and the broker's own secrets.

use std::time::Duration;

use claudemesh_protocol::UserId;
use claudemesh_store::{
    BrokerSecret, CliSessionKind, Encrypted, FirstAccount, NewCliSession, NewUser, TokenHash,
    UserRole,
};

use crate::fixture::{self, Fixture, NOW, after, fresh, on_both_engines};

on_both_engines!(
    of_many_first_accounts_exactly_one_is_made,
    a_session_slides_until_it_is_revoked_or_ends,
    an_address_belongs_to_one_account,
    the_first_value_of_a_broker_secret_stays,
);

const TTL: Duration = Duration::from_hours(90 * 24);

fn new_user() -> NewUser {
    NewUser {
        id: UserId::new(fresh()),
        name: "Owner".to_owned(),
        email: None,
        role: UserRole::Admin,
        created_at: NOW,
    }
}

fn new_session(user: &UserId, token: u8) -> NewCliSession {
    NewCliSession {
        id: fresh(),
        user_id: user.clone(),
        kind: CliSessionKind::Session,
        token_hash: TokenHash([token; 32]),
        token_prefix: "cm_session_abcd".to_owned(),
        hostname: Some("box".to_owned()),
        platform: Some("linux".to_owned()),
        arch: None,
        client_version: None,
        expires_at: Some(NOW.plus(TTL)),
        created_at: NOW,
    }
}

/// OPS-6.
async fn of_many_first_accounts_exactly_one_is_made(fixture: &Fixture) {
    // An owner made by provisioning does not use the setup code up.
    fixture::user(&fixture.store).await;
    assert!(!fixture.store.has_account().await.unwrap());
    let mut attempts = tokio::task::JoinSet::new();
    for token in 0..20 {
        let store = fixture.store.clone();
        attempts.spawn(async move {
            let user = new_user();
            let session = new_session(&user.id, token);
            (token, store.create_first_account(user, session).await.unwrap())
        });
    }
    let answers = attempts.join_all().await;
    let winners: Vec<_> =
        answers.iter().filter(|(_, answer)| *answer != FirstAccount::Exists).collect();
    assert_eq!(winners.len(), 1);
    assert!(fixture.store.has_account().await.unwrap());
    for (token, answer) in &answers {
        let login = fixture.store.use_cli_session(TokenHash([*token; 32]), NOW, TTL).await.unwrap();
        assert_eq!(login.is_some(), *answer != FirstAccount::Exists);
    }
}

async fn a_session_slides_until_it_is_revoked_or_ends(fixture: &Fixture) {
    let store = &fixture.store;
    let user = fixture::user(store).await;
    let token = TokenHash([9; 32]);
    store.create_cli_session(new_session(&user.id, 9)).await.unwrap();
    let login = store.use_cli_session(token, after(100), TTL).await.unwrap().unwrap();
    assert_eq!(login.user, user);
    assert_eq!(login.expires_at, Some(after(100).plus(TTL)));
    // Within a minute nothing is written, so the end stays.
    let login = store.use_cli_session(token, after(130), TTL).await.unwrap().unwrap();
    assert_eq!(login.expires_at, Some(after(100).plus(TTL)));
    assert_eq!(store.use_cli_session(token, after(100).plus(TTL), TTL).await.unwrap(), None);
    assert!(store.revoke_cli_session(token, after(200)).await.unwrap());
    assert!(!store.revoke_cli_session(token, after(200)).await.unwrap());
    assert_eq!(store.use_cli_session(token, after(200), TTL).await.unwrap(), None);
    assert_eq!(store.use_cli_session(TokenHash([1; 32]), NOW, TTL).await.unwrap(), None);
}

async fn an_address_belongs_to_one_account(fixture: &Fixture) {
    let first = NewUser { email: Some("Ann@Example.org".to_owned()), ..new_user() };
    let second = NewUser { email: Some("ann@example.org".to_owned()), ..new_user() };
    let made = fixture.store.create_user(first.clone()).await.unwrap().unwrap();
    assert_eq!(fixture.store.create_user(second.clone()).await.unwrap(), None);
    assert_eq!(fixture.store.user(&first.id).await.unwrap(), Some(made));
    assert_eq!(fixture.store.user(&second.id).await.unwrap(), None);
}

async fn the_first_value_of_a_broker_secret_stays(fixture: &Fixture) {
    let store = &fixture.store;
    assert_eq!(store.broker_secret(BrokerSecret::Sentinel).await.unwrap(), None);
    let kept = |text: &str| {
        let value = Encrypted::new(text);
        store.keep_broker_secret(BrokerSecret::Sentinel, value, NOW)
    };
    assert_eq!(kept("one").await.unwrap().as_str(), "one");
    assert_eq!(kept("two").await.unwrap().as_str(), "one");
    assert_eq!(store.broker_secret(BrokerSecret::SigningKey).await.unwrap(), None);
    assert_eq!(format!("{:?}", Encrypted::new("one")), "Encrypted(…)");
}
