/* library_state: what the C library starts with, before anything is asked of it. In: the process. Out: JSON. */
#include "out.h"

#include <fenv.h>
#include <getopt.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void view_locale(const char *name)
{
    const struct lconv *conv = localeconv();
    open_object(name);
    text("all", setlocale(LC_ALL, NULL));
    text("codeset", nl_langinfo(CODESET));
    number("bytes_a_character", (long)MB_CUR_MAX);
    text("decimal_point", conv->decimal_point);
    close_object();
}

static void view_time_zone(const char *name)
{
    time_t noon = 1700000000;
    struct tm local;
    open_object(name);
    text("standard", tzname[0]);
    text("summer", tzname[1]);
    number("seconds_west", timezone);
    localtime_r(&noon, &local);
    number("hour", local.tm_hour);
    close_object();
}

void view_library(void)
{
    view_locale("locale");
    text("setlocale", setlocale(LC_ALL, ""));
    view_locale("locale_of_environment");
    view_time_zone("time_zone");
    tzset();
    view_time_zone("time_zone_of_environment");
    long starts[] = {rand(), random(), mrand48(), optind, opterr, optopt, fegetround(), fegetexcept()};
    numbers("starts", starts, 8);
    number("processors", sysconf(_SC_NPROCESSORS_ONLN));
    number("open_max", sysconf(_SC_OPEN_MAX));
    number("arg_max", sysconf(_SC_ARG_MAX));
    text("message", strerror(ENOENT));
    text("login", getlogin());
}
