/* An OpenID provider made with oidc-provider: `node server.js PORT GATEWAY` is http://localhost:PORT, prints a line when it listens, and
 * serves until its input ends. GATEWAY is the address of the gateway that it lets people in to.
 *
 * Whoever calls themselves ROLE-NAME, with any password, has the value `plant-ROLE` in the claim `roles` and NAME as preferred_username;
 * the pages are the library's own. Two clients: `bifrost` has the secret that CLIENT_SECRET says and gets tokens signed by RS256,
 * `bifrost-public` has none and gets ES256. Both must use PKCE.
 */
import { generateKeyPairSync, randomBytes } from "node:crypto";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const modules = path.join(here, "../../../build/counterparts/oidc/node_modules");
const { Provider } = await import(pathToFileURL(path.join(modules, "oidc-provider/lib/index.js")));

const [port, gateway] = process.argv.slice(2);
const key = (kind, options, more) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: "jwk" }),
  use: "sig",
  ...more,
});
const client = {
  redirect_uris: [`${gateway}/api/session/oidc/callback`],
  post_logout_redirect_uris: [`${gateway}/`],
  grant_types: ["authorization_code"],
  response_types: ["code"],
};
const provider = new Provider(`http://localhost:${port}`, {
  clients: [
    { ...client, client_id: "bifrost", client_secret: process.env.CLIENT_SECRET },
    {
      ...client,
      client_id: "bifrost-public",
      token_endpoint_auth_method: "none",
      id_token_signed_response_alg: "ES256",
    },
  ],
  jwks: {
    keys: [
      key("rsa", { modulusLength: 2048 }, { kid: "rsa", alg: "RS256" }),
      key("ec", { namedCurve: "P-256" }, { kid: "ec", alg: "ES256" }),
    ],
  },
  claims: { openid: ["sub"], profile: ["preferred_username", "roles"] },
  conformIdTokenClaims: false, // so that the ID token itself tells name and roles
  cookies: { keys: [randomBytes(32).toString("hex")] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
  async findAccount(_, id) {
    const [role, name] = id.split("-");
    return {
      accountId: id,
      claims: async () => ({ sub: id, preferred_username: name, roles: [`plant-${role}`, "everybody"] }),
    };
  },
});
provider.listen(Number(port), "127.0.0.1", () => process.stdout.write("listening\n"));
process.stdin.on("end", () => process.exit(0)).resume();
