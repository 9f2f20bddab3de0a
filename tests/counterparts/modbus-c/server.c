/* A Modbus TCP device made with libmodbus: `server [PORT]` listens on a free port of 127.0.0.1, or on that one, prints it, and
 * serves any number of clients until its input ends. `server LINE` is a Modbus RTU device instead, unit 5 on a serial line such
 * as /dev/pts/3.
 *
 * Each table has 10,000 addresses; beyond them libmodbus answers with exception 2.
 *   input registers     the register's address; from 9000 on, how many requests with function code 0 to 127 came
 *   holding registers   0 counts requests; 100 -1234.5677490234375 as float32 in the orders ABCD, DCBA, BADC, CDAB, two registers each;
 *                       110 "BIFROST"; the others their address times 3, as 16 bits
 *   coils               set where the address can be divided by 3
 *   discrete inputs     set where the address can be divided by 5
 * Unit 8 is behind a gateway that does not reach it (exception 11), unit 9 never answers, all others are this device.
 */
#include <arpa/inet.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <unistd.h>

enum { SIZE = 10000, COUNTS = 9000, MBAP_UNIT = 6, FUNCTION = 7 };

static void fill(modbus_mapping_t *map) {
  for (int i = 0; i < SIZE; i++) {
    map->tab_input_registers[i] = i < COUNTS ? i : 0;
    map->tab_registers[i] = (uint16_t)(i * 3);
    map->tab_bits[i] = i % 3 == 0;
    map->tab_input_bits[i] = i % 5 == 0;
  }
  map->tab_registers[0] = 0;
  /* -1234.5677490234375 as float32 is C49A522B; modbus_set_float_abcd of libmodbus 3.1.6 swaps the bytes on such a host */
  const uint16_t floats[] = {0xC49A, 0x522B, 0x2B52, 0x9AC4, 0x9AC4, 0x2B52, 0x522B, 0xC49A};
  for (int i = 0; i < 8; i++) map->tab_registers[100 + i] = floats[i];
  const char *name = "BIFROST";
  for (int i = 0; i < 4; i++) map->tab_registers[110 + i] = (uint16_t)(name[2 * i] << 8 | name[2 * i + 1]);
}

static void answer(modbus_t *bus, const uint8_t *query, int length, modbus_mapping_t *map) {
  map->tab_registers[0]++;
  map->tab_input_registers[COUNTS + (query[FUNCTION] & 127)]++;
  if (query[MBAP_UNIT] == 9) return;
  if (query[MBAP_UNIT] == 8) modbus_reply_exception(bus, query, MODBUS_EXCEPTION_GATEWAY_TARGET);
  else modbus_reply(bus, query, length, map);
}

/* Unit 5 on a serial line; libmodbus ignores what is for others and what has a wrong checksum. */
static int serve_line(const char *line) {
  modbus_t *bus = modbus_new_rtu(line, 115200, 'N', 8, 1);
  modbus_mapping_t *map = modbus_mapping_new(SIZE, SIZE, SIZE, SIZE);
  if (!bus || !map || modbus_set_slave(bus, 5) || modbus_connect(bus)) {
    perror(line);
    return 1;
  }
  fill(map);
  puts("ready");
  fflush(stdout);
  for (int s = modbus_get_socket(bus);;) {
    fd_set ready;
    FD_ZERO(&ready);
    FD_SET(STDIN_FILENO, &ready);
    FD_SET(s, &ready);
    if (select(s + 1, &ready, NULL, NULL, NULL) < 0) return 1;
    if (FD_ISSET(STDIN_FILENO, &ready)) return 0;
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
    int length = modbus_receive(bus, query);
    if (length > 0) modbus_reply(bus, query, length, map);
    if (length <= 0) modbus_flush(bus); /* a pause ends a frame: what is left of one for others is dropped */
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && argv[1][0] == '/') return serve_line(argv[1]);
  modbus_t *bus = modbus_new_tcp("127.0.0.1", argc > 1 ? atoi(argv[1]) : 0);
  modbus_mapping_t *map = modbus_mapping_new(SIZE, SIZE, SIZE, SIZE);
  int listener = bus ? modbus_tcp_listen(bus, 16) : -1;
  struct sockaddr_in at;
  socklen_t size = sizeof at;
  if (!map || listener < 0 || getsockname(listener, (struct sockaddr *)&at, &size)) {
    perror("listen");
    return 1;
  }
  fill(map);
  printf("%d\n", ntohs(at.sin_port));
  fflush(stdout);
  fd_set all;
  FD_ZERO(&all);
  FD_SET(STDIN_FILENO, &all);
  FD_SET(listener, &all);
  for (int highest = listener;;) {
    fd_set ready = all;
    if (select(highest + 1, &ready, NULL, NULL, NULL) < 0) return 1;
    if (FD_ISSET(STDIN_FILENO, &ready)) return 0;
    for (int s = 1; s <= highest; s++) {
      if (!FD_ISSET(s, &ready)) continue;
      if (s == listener) {
        int client = modbus_tcp_accept(bus, &listener);
        if (client < 0) continue;
        FD_SET(client, &all);
        if (client > highest) highest = client;
        continue;
      }
      uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
      modbus_set_socket(bus, s);
      int length = modbus_receive(bus, query);
      if (length > 0) answer(bus, query, length, map);
      if (length < 0) {
        close(s);
        FD_CLR(s, &all);
      }
    }
  }
}
