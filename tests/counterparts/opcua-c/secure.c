/* An OPC UA server made with open62541, with security: secure PORT CERTIFICATE KEY CLIENT, files in DER.
   Listens on 127.0.0.1 until its input ends. Policies None, Basic256Sha256, Aes128_Sha256_RsaOaep and Aes256_Sha256_RsaPss;
   lets the application with the certificate CLIENT in; anonymous, and user1 with secret1. Double ns=1;s=Double is 1.5. */
#include <open62541/plugin/accesscontrol_default.h>
#include <open62541/server.h>
#include <open62541/server_config_default.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static UA_ByteString read_file(const char *name) {
    UA_ByteString data = UA_BYTESTRING_NULL;
    FILE *file = fopen(name, "rb");
    if(!file) {
        perror(name);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    UA_ByteString_allocBuffer(&data, (size_t)ftell(file));
    rewind(file);
    if(fread(data.data, 1, data.length, file) != data.length)
        exit(2);
    fclose(file);
    return data;
}

int main(int argc, char **argv) {
    if(argc != 5) {
        fputs("usage: secure PORT CERTIFICATE KEY CLIENT\n", stderr);
        return 2;
    }
    UA_ByteString certificate = read_file(argv[2]), key = read_file(argv[3]), client = read_file(argv[4]);
    UA_Server *server = UA_Server_new();
    UA_ServerConfig *config = UA_Server_getConfig(server);
    UA_StatusCode made = UA_ServerConfig_setDefaultWithSecurityPolicies(
        config, (UA_UInt16)atoi(argv[1]), &certificate, &key, &client, 1, NULL, 0, NULL, 0);
    if(made != UA_STATUSCODE_GOOD) {
        fprintf(stderr, "%s\n", UA_StatusCode_name(made));
        return 1;
    }
    UA_String_clear(&config->serverUrls[0]);
    char url[64];
    snprintf(url, sizeof url, "opc.tcp://127.0.0.1:%s", argv[1]);
    config->serverUrls[0] = UA_STRING_ALLOC(url);
    UA_String_clear(&config->applicationDescription.applicationUri);
    config->applicationDescription.applicationUri = UA_STRING_ALLOC("urn:open62541.test:server");
    UA_UsernamePasswordLogin user = {UA_STRING_STATIC("user1"), UA_STRING_STATIC("secret1")};
    UA_AccessControl_default(config, true, NULL, 1, &user);

    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    UA_Double value = 1.5;
    UA_Variant_setScalar(&attributes.value, &value, &UA_TYPES[UA_TYPES_DOUBLE]);
    attributes.dataType = UA_TYPES[UA_TYPES_DOUBLE].typeId;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    UA_Server_addVariableNode(server, UA_NODEID_STRING(1, "Double"), UA_NS0ID(OBJECTSFOLDER), UA_NS0ID(ORGANIZES),
                              UA_QUALIFIEDNAME(1, "Double"), UA_NS0ID(BASEDATAVARIABLETYPE), attributes, NULL, NULL);
    if(UA_Server_run_startup(server) != UA_STATUSCODE_GOOD)
        return 1;
    puts("ready");
    fflush(stdout);
    char line[64];
    struct pollfd input = {0, POLLIN, 0};
    while(poll(&input, 1, 0) <= 0 || fgets(line, sizeof line, stdin))
        UA_Server_run_iterate(server, true);
    UA_Server_run_shutdown(server);
    UA_Server_delete(server);
    return 0;
}
