"""Which endpoint and which user token policy is taken of what a server offers."""

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.opcua.security import (
    POLICIES,
    POLICY_NONE,
    STRENGTH,
    STRONG,
    ServerRefusedError,
    choose,
    user_token_policy,
)

URL = "opc.tcp://10.1.1.100:4840/plant"
NONE, SIGN, ENCRYPT = (
    ua.MessageSecurityMode.None_,
    ua.MessageSecurityMode.Sign,
    ua.MessageSecurityMode.SignAndEncrypt,
)
BY_NAME = {policy.name: policy.uri for policy in POLICIES}


def endpoint(policy, mode=ENCRYPT, url="opc.tcp://behind.nat:4840/plant"):
    uri = BY_NAME.get(policy, POLICY_NONE if policy == "none" else policy)
    return ua.EndpointDescription(EndpointUrl=url, SecurityPolicyUri=uri, SecurityMode=mode)


def taken(endpoints, wanted="auto", mode=None, **more):
    choice = choose(endpoints, wanted, mode, URL, **more)
    return choice.policy.name, choice.mode


@pytest.mark.parametrize(
    ("offered", "best"),
    [
        (["none", "basic256sha256", "aes256_sha256_rsapss", "aes128_sha256_rsaoaep"], "aes256_sha256_rsapss"),
        (["aes128_sha256_rsaoaep", "basic256sha256", "basic256"], "basic256sha256"),
        (["basic128rsa15", "aes128_sha256_rsaoaep", "http://new.policy"], "aes128_sha256_rsaoaep"),
    ],
)
def test_auto_takes_the_strongest_policy(offered, best):
    assert taken([endpoint(policy) for policy in offered]) == (best, ENCRYPT)


def test_auto_rather_encrypts_than_signs_with_a_stronger_policy():
    both = [endpoint("aes256_sha256_rsapss", SIGN), endpoint("basic256sha256", ENCRYPT)]
    assert taken(both) == ("basic256sha256", ENCRYPT)
    assert taken(both, mode="sign") == ("aes256_sha256_rsapss", SIGN)
    assert taken(both[:1]) == ("aes256_sha256_rsapss", SIGN)


def test_deprecated_policies_are_the_last_resort_and_only_when_asked():
    offered = [endpoint("basic128rsa15"), endpoint("basic256", SIGN), endpoint("basic256sha256", SIGN)]
    assert taken(offered, allow_deprecated=True) == ("basic256sha256", SIGN)
    assert taken(offered[:2], allow_deprecated=True) == ("basic128rsa15", ENCRYPT)
    with pytest.raises(ServerRefusedError, match="is deprecated, see allow_deprecated"):
        taken(offered[:2])


@pytest.mark.threat(13)
@pytest.mark.parametrize(
    "offered",
    [
        [],
        [endpoint("none", NONE)],
        [endpoint("none", NONE), endpoint("http://new.policy")],
        [endpoint("none", ENCRYPT)],
        [endpoint("basic256sha256", NONE)],
        [endpoint("basic256sha256", ENCRYPT, "https://10.1.1.100/plant")],
        [endpoint("basic256sha256", ENCRYPT, None)],
    ],
)
def test_auto_is_never_none(offered):
    with pytest.raises(ServerRefusedError, match="to send everything in clear, write security_policy: none"):
        taken(offered)


def test_a_policy_by_name_is_taken_or_nothing():
    offered = [endpoint("aes256_sha256_rsapss"), endpoint("basic256sha256", SIGN)]
    assert taken(offered, "basic256sha256") == ("basic256sha256", SIGN)
    with pytest.raises(ServerRefusedError, match="does not offer basic256sha256 with sign_and_encrypt, only Aes256_Sha256_RsaPss/SignAndEncrypt, Basic256Sha256/Sign"):  # fmt: skip
        taken(offered, "basic256sha256", "sign_and_encrypt")


def test_of_endpoints_that_are_alike_the_one_with_the_path_is_taken():
    alike = [endpoint("basic256sha256", url=f"opc.tcp://behind.nat/{path}") for path in ("other", "plant/", "third")]
    assert choose(alike, "auto", None, URL).endpoint is alike[1]
    assert choose(alike[2:], "auto", None, URL).endpoint is alike[2]


offers = st.lists(
    st.builds(
        endpoint,
        st.sampled_from([*BY_NAME, "none", "http://new.policy"]),
        st.sampled_from(list(ua.MessageSecurityMode)),
        st.sampled_from([URL, "https://x", "", None]),
    ),
    max_size=12,
)


@pytest.mark.threat(13)
@given(offers, st.sampled_from(["auto", *BY_NAME]), st.sampled_from([None, "sign", "sign_and_encrypt"]), st.booleans())
def test_whatever_is_offered_the_choice_is_secured_and_as_wanted(offered, wanted, mode, deprecated):
    try:
        choice = choose(offered, wanted, mode, URL, allow_deprecated=deprecated)
    except ServerRefusedError:
        return
    assert choice.endpoint in offered
    assert choice.mode in (SIGN, ENCRYPT)
    assert choice.endpoint.SecurityPolicyUri == choice.policy.uri != POLICY_NONE
    assert wanted in ("auto", choice.policy.name)
    assert deprecated or wanted != "auto" or not choice.policy.deprecated


def token(kind, policy, name="id"):
    return ua.UserTokenPolicy(PolicyId=name, TokenType=kind, SecurityPolicyUri=policy)


PASSWORD, CERTIFICATE = ua.UserTokenType.UserName, ua.UserTokenType.Certificate
STRONGEST, WEAK = BY_NAME["aes256_sha256_rsapss"], BY_NAME["basic256"]


def log_in(kind, policies, channel=POLICY_NONE, encrypted=False, certified=True, deprecated=False, clear=False):
    offered = [token(kind, policy) for policy in policies]
    return user_token_policy(
        offered, kind, channel, encrypted=encrypted, certified=certified, allow_deprecated=deprecated, allow_clear=clear
    ).SecurityPolicyUri


@pytest.mark.parametrize("kind", [PASSWORD, CERTIFICATE])
def test_the_strongest_token_policy_is_taken(kind):
    assert log_in(kind, [WEAK, BY_NAME["basic256sha256"], STRONGEST]) == STRONGEST
    assert log_in(kind, [None], channel=STRONGEST) == STRONGEST


@pytest.mark.parametrize("kind", [PASSWORD, CERTIFICATE])
def test_a_deprecated_token_policy_is_enough_where_the_channel_encrypts_or_when_asked(kind):
    assert log_in(kind, [WEAK], encrypted=True, channel=STRONGEST) == WEAK
    assert log_in(kind, [WEAK], deprecated=True) == WEAK
    with pytest.raises(ServerRefusedError, match="deprecated|strong security only"):
        log_in(kind, [WEAK], channel=STRONGEST)


@pytest.mark.threat(12)
def test_a_password_goes_in_clear_only_over_an_encrypted_channel_or_when_asked():
    assert log_in(PASSWORD, [POLICY_NONE], encrypted=True) == POLICY_NONE
    assert log_in(PASSWORD, [None], clear=True) == POLICY_NONE
    for certified in (False, True):
        with pytest.raises(ServerRefusedError, match="would travel in clear"):
            log_in(PASSWORD, [POLICY_NONE], certified=certified)
    with pytest.raises(ServerRefusedError, match="would travel in clear"):
        log_in(PASSWORD, [STRONGEST, None], certified=False)  # nobody's certificate to encrypt it for
    with pytest.raises(ServerRefusedError, match="shows no certificate"):
        log_in(PASSWORD, [STRONGEST], certified=False)


def test_a_user_certificate_is_never_shown_without_a_signature():
    with pytest.raises(ServerRefusedError, match="only over a channel"):
        log_in(CERTIFICATE, [POLICY_NONE], clear=True)


@pytest.mark.parametrize(("kind", "said"), [(PASSWORD, "takes no user names"), (CERTIFICATE, "no user certificates")])
def test_what_the_server_does_not_take_is_said(kind, said):
    with pytest.raises(ServerRefusedError, match=said):
        user_token_policy(
            [token(ua.UserTokenType.Anonymous, None)], kind, POLICY_NONE,
            encrypted=True, certified=True, allow_deprecated=True, allow_clear=True,
        )  # fmt: skip


def test_the_table_of_policies():
    assert list(STRENGTH) == [policy.uri for policy in POLICIES]
    assert {policy.uri.rpartition("#")[2] for policy in POLICIES if policy.uri in STRONG} == {
        "Aes256_Sha256_RsaPss", "Basic256Sha256", "Aes128_Sha256_RsaOaep"
    }  # fmt: skip
