/* An OPC UA server made with open62541: server PORT [COUNT HERTZ [HISTORY [ITEMS]]]. Listens on 127.0.0.1 until its input ends.
   Policy None; anonymous, and user1 with secret1, whose subscriptions alone may go from one session to another. COUNT doubles ns=1;s=v0, ns=1;s=v1 … count upwards together, HERTZ times a second; what a client
   asks for as queue size and notifications per publish is taken up to 100,000. Of each of them the last HISTORY values are kept (0: none); a subscription takes ITEMS items at most. Double ns=1;s=Double is set by lines of input; the line
   `event SEVERITY MESSAGE` raises a BaseEvent of the Server object.
   Int32 ns=1;s=Mode and ns=1;s=Phase are of enumerations whose names are a property of the data type: EnumValues, EnumStrings. */
#include <open62541/plugin/accesscontrol_default.h>
#include <open62541/plugin/historydata/history_data_backend_memory.h>
#include <open62541/plugin/historydata/history_data_gathering_default.h>
#include <open62541/plugin/historydata/history_database_default.h>
#include <open62541/plugin/log_stdout.h>
#include <open62541/server.h>
#include <open62541/server_config_default.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static UA_NodeId *nodes;
static unsigned count;
static double number;

static UA_NodeId add(UA_Server *server, const char *name, bool history) {
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    UA_Double value = 0;
    UA_NodeId id;
    UA_Variant_setScalar(&attributes.value, &value, &UA_TYPES[UA_TYPES_DOUBLE]);
    attributes.dataType = UA_TYPES[UA_TYPES_DOUBLE].typeId;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    attributes.minimumSamplingInterval = 0;
    attributes.historizing = history;
    attributes.accessLevel = UA_ACCESSLEVELMASK_READ | (history ? UA_ACCESSLEVELMASK_HISTORYREAD : 0);
    attributes.displayName = UA_LOCALIZEDTEXT("en", (char *)name);
    UA_Server_addVariableNode(server, UA_NODEID_STRING(1, (char *)name), UA_NS0ID(OBJECTSFOLDER), UA_NS0ID(ORGANIZES),
                              UA_QUALIFIEDNAME(1, (char *)name), UA_NS0ID(BASEDATAVARIABLETYPE), attributes, NULL, &id);
    return id;
}

static void set(UA_Server *server, UA_NodeId id, UA_Double value) {
    UA_DataValue data;
    UA_DataValue_init(&data);
    UA_Variant_setScalar(&data.value, &value, &UA_TYPES[UA_TYPES_DOUBLE]);
    data.hasValue = data.hasSourceTimestamp = true;
    data.sourceTimestamp = UA_DateTime_now();
    UA_Server_writeDataValue(server, id, data);
}

static UA_DataType enumerations[2]; /* not known to the server, which so has no definition of them */
static unsigned enumeration_count;

/* A variable with this value, of an enumeration that says its names in a property. */
static void add_enumerated(UA_Server *server, char *name, UA_Int32 value, char *property, const UA_DataType *kind, void *names,
                           size_t size) {
    UA_NodeId type;
    UA_DataTypeAttributes of_type = UA_DataTypeAttributes_default;
    UA_Server_addDataTypeNode(server, UA_NODEID_NULL, UA_NS0ID(ENUMERATION), UA_NS0ID(HASSUBTYPE), UA_QUALIFIEDNAME(1, name),
                              of_type, NULL, &type);
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    UA_Variant_setArray(&attributes.value, names, size, kind);
    attributes.dataType = kind->typeId;
    attributes.valueRank = UA_VALUERANK_ONE_DIMENSION;
    UA_UInt32 any = 0;
    attributes.arrayDimensions = &any;
    attributes.arrayDimensionsSize = 1;
    UA_Server_addVariableNode(server, UA_NODEID_NULL, type, UA_NS0ID(HASPROPERTY), UA_QUALIFIEDNAME(0, property),
                              UA_NS0ID(PROPERTYTYPE), attributes, NULL, NULL);
    UA_DataType *enumeration = &enumerations[enumeration_count++];
    *enumeration = UA_TYPES[UA_TYPES_SERVERSTATE];
    enumeration->typeId = type;
    attributes = UA_VariableAttributes_default;
    UA_Variant_setScalar(&attributes.value, &value, enumeration);
    attributes.dataType = type;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    UA_Server_addVariableNode(server, UA_NODEID_STRING(1, name), UA_NS0ID(OBJECTSFOLDER), UA_NS0ID(ORGANIZES),
                              UA_QUALIFIEDNAME(1, name), UA_NS0ID(BASEDATAVARIABLETYPE), attributes, NULL, NULL);
}

static void add_enumerations(UA_Server *server) {
    UA_EnumValueType values[2];
    UA_init(&values[0], &UA_TYPES[UA_TYPES_ENUMVALUETYPE]);
    UA_init(&values[1], &UA_TYPES[UA_TYPES_ENUMVALUETYPE]);
    values[0].value = 1;
    values[0].displayName = UA_LOCALIZEDTEXT("en", "Manual");
    values[1].value = 7;
    values[1].displayName = UA_LOCALIZEDTEXT("en", "Automatic");
    add_enumerated(server, "Mode", 7, "EnumValues", &UA_TYPES[UA_TYPES_ENUMVALUETYPE], values, 2);
    UA_LocalizedText strings[2] = {UA_LOCALIZEDTEXT("en", "Filling"), UA_LOCALIZEDTEXT("en", "Draining")};
    add_enumerated(server, "Phase", 1, "EnumStrings", &UA_TYPES[UA_TYPES_LOCALIZEDTEXT], strings, 2);
}

static void tick(UA_Server *server, void *unused) {
    (void)unused;
    number += 1;
    for(unsigned i = 0; i < count; i++)
        set(server, nodes[i], number);
}

int main(int argc, char **argv) {
    if(argc != 2 && argc < 4) {
        fputs("usage: server PORT [COUNT HERTZ [HISTORY [ITEMS]]]\n", stderr);
        return 2;
    }
    UA_Server *server = UA_Server_new();
    UA_ServerConfig *config = UA_Server_getConfig(server);
    UA_ServerConfig_setMinimal(config, (UA_UInt16)atoi(argv[1]), NULL);
    UA_String_clear(&config->serverUrls[0]);
    char url[64];
    snprintf(url, sizeof url, "opc.tcp://127.0.0.1:%s", argv[1]);
    config->serverUrls[0] = UA_STRING_ALLOC(url);
    config->maxNotificationsPerPublish = 100000;
    config->queueSizeLimits.max = 100000;
    config->publishingIntervalLimits.min = 10;
    config->samplingIntervalLimits.min = 0;
    UA_UsernamePasswordLogin user = {UA_STRING_STATIC("user1"), UA_STRING_STATIC("secret1")};
    config->allowNonePolicyPassword = true;
    UA_AccessControl_default(config, true, NULL, 1, &user);
    UA_NodeId alone = add(server, "Double", false);
    add_enumerations(server);
    if(argc > 3) {
        count = (unsigned)atoi(argv[2]);
        bool history = argc > 4 && atoi(argv[4]) > 0;
        if(argc > 5)
            config->maxMonitoredItemsPerSubscription = (UA_UInt32)atoi(argv[5]);
        UA_HistoryDataGathering gathering = UA_HistoryDataGathering_Default(count);
        if(history)
            config->historyDatabase = UA_HistoryDatabase_default(gathering);
        nodes = calloc(count, sizeof *nodes);
        for(unsigned i = 0; i < count; i++) {
            char name[16];
            snprintf(name, sizeof name, "v%u", i);
            nodes[i] = add(server, name, history);
            UA_HistorizingNodeIdSettings kept = {0};
            kept.maxHistoryDataResponseSize = 100;
            kept.historizingUpdateStrategy = UA_HISTORIZINGUPDATESTRATEGY_VALUESET;
            if(history) {
                kept.historizingBackend = UA_HistoryDataBackend_Memory_Circular(1, (size_t)atoi(argv[4]));
                gathering.registerNodeId(server, gathering.context, &nodes[i], kept);
            }
        }
        UA_Server_addRepeatedCallback(server, tick, NULL, 1000.0 / atof(argv[3]), NULL);
    }
    if(UA_Server_run_startup(server) != UA_STATUSCODE_GOOD)
        return 1;
    puts("ready");
    fflush(stdout);
    setvbuf(stdin, NULL, _IONBF, 0); /* a second line would wait where poll does not see it */
    char line[64];
    struct pollfd input = {0, POLLIN, 0};
    for(;;) {
        UA_Server_run_iterate(server, true);
        if(poll(&input, 1, 0) <= 0)
            continue;
        if(!fgets(line, sizeof line, stdin))
            break;
        unsigned severity = 0;
        char message[64];
        if(sscanf(line, "event %u %63[^\n]", &severity, message) == 2)
            UA_Server_createEvent(server, UA_NS0ID(SERVER), UA_NS0ID(BASEEVENTTYPE), (UA_UInt16)severity,
                                  UA_LOCALIZEDTEXT("en", message), NULL, NULL, NULL);
        else
            set(server, alone, atof(line));
    }
    UA_Server_run_shutdown(server);
    UA_Server_delete(server);
    free(nodes);
    return 0;
}
