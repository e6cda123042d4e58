/* test_loaders_parse.c - text, Markdown and HTML: what becomes text, what becomes a path, where passages
 * break. */
#include "check.h"
#include "loaders_promise.h"

#include <dirent.h>
#include <sys/stat.h>

#define PASSAGE_MAX 2000u

static struct loader_document *parse(const char *name, const char *text)
{
    TEST_WHY;
    struct loader_document *d;
    CHECK_OK(loader_parse(&d, name, text, strlen(text), LOADER_UNKNOWN, NULL, &why));
    const char *broken = promise_broken(d, PASSAGE_MAX);
    if (broken) {
        print_error("%s: %s\n", name, broken);
        fail();
    }
    return d;
}

/* The passage that holds the words; they must lie in one. */
static const struct loader_passage *holding(const struct loader_document *d, const char *words)
{
    const char *at = strstr(d->text, words);
    if (!at) {
        print_error("not in the text: %s\n---\n%s\n---\n", words, d->text);
        fail();
        return NULL;
    }
    size_t start = (size_t)(at - d->text), end = start + strlen(words);
    for (size_t i = 0; i < d->n_passages; i++)
        if (d->passages[i].start <= start && end <= d->passages[i].end)
            return &d->passages[i];
    print_error("cut into two passages: %s\n", words);
    fail();
    return NULL;
}

static void formats_are_told_by_name_then_content(void **state)
{
    UNUSED_STATE(state);
    CHECK_I64_EQ(loader_detect("a/b.md", NULL, 0), LOADER_MARKDOWN);
    CHECK_I64_EQ(loader_detect("a/B.HTM", NULL, 0), LOADER_HTML);
    CHECK_I64_EQ(loader_detect("x.txt", NULL, 0), LOADER_TEXT);
    CHECK_I64_EQ(loader_detect("x.md", "%PDF-1.4", 8), LOADER_UNKNOWN);
    CHECK_I64_EQ(loader_detect("README", "hello", 5), LOADER_TEXT);
    CHECK_I64_EQ(loader_detect("page", "\xEF\xBB\xBF \n<!DOCTYPE html><p>", 23), LOADER_HTML);
    CHECK_I64_EQ(loader_detect("x.bin", "a\0b", 3), LOADER_UNKNOWN);
    CHECK_I64_EQ(loader_detect("x.dat", NULL, 0), LOADER_UNKNOWN);
    CHECK_I64_EQ(loader_detect("", "hello", 5), LOADER_UNKNOWN);
    CHECK_I64_EQ(loader_detect("dir/", "hello", 5), LOADER_UNKNOWN);
    CHECK_STR_EQ(loader_mime(LOADER_MARKDOWN), "text/markdown");
}

static void markdown_headings_give_the_path(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d =
        parse("guide.md", "Before.\n\n# Travel *policy*\n\nIntro.\n\nHotels\n------\n\nUp to `EUR 140`.\n\n"
                          "### Lisbon &amp; Porto\n\nUp to 150.\n\n## Trains [list](x)\n\nSecond class.\n");
    CHECK_STR_EQ(d->title, "Travel policy");
    CHECK_STR_EQ(holding(d, "Before.")->path, "");
    CHECK_STR_EQ(holding(d, "Intro.")->path, "Travel policy");
    CHECK_STR_EQ(holding(d, "Up to `EUR 140`")->path, "Travel policy > Hotels");
    CHECK_STR_EQ(holding(d, "Up to 150")->path, "Travel policy > Hotels > Lisbon & Porto");
    CHECK_STR_EQ(holding(d, "Second class")->path, "Travel policy > Trains list");
    /* a heading belongs to the first passage below it */
    CHECK(holding(d, "Hotels\n------\n\nUp to `EUR 140`."));
    loader_document_free(d);
}

static void markdown_text_is_the_file_itself(void **state)
{
    UNUSED_STATE(state);
    const char *source = "\xEF\xBB\xBF# A\r\n\r\ntext \\* with **marks**\r\n\r\n- one\r\n- two\r\n";
    struct loader_document *d = parse("a.md", source);
    CHECK_STR_EQ(d->text, source + 3);
    CHECK_U64_EQ(d->text_len, strlen(source) - 3);
    struct cairn_hash want = cairn_hash_bytes(source, strlen(source));
    CHECK(memcmp(&want, &d->content_hash, sizeof want) == 0);
    loader_document_free(d);
}

static void what_looks_like_a_heading_in_code_is_none(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d =
        parse("a.md", "# Real\n\n```sh\n# comment\necho `x`\n```\n\n~~~\n# other\n~~~\n\n    # indented\n\n"
                      "<!--\n# hidden\n-->\n\n<script>\n# no\n</script>\n\nend\n");
    CHECK_STR_EQ(holding(d, "end")->path, "Real");
    loader_document_free(d);
}

static void front_matter_names_the_document(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d =
        parse("a.md", "---\ntitle: \"On call\"\ndraft: false\n---\n\n## Rota\n\nWeekly.\n");
    CHECK_STR_EQ(d->title, "On call");
    CHECK_STR_EQ(holding(d, "Weekly.")->path, "Rota");
    CHECK_STR_EQ(holding(d, "draft: false")->path, "");
    loader_document_free(d);
}

/* A table of n rows of about `bytes` each after a heading. */
static char *table(const char *before, size_t n, size_t bytes)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    cairn_buf_puts(&b, before);
    cairn_buf_puts(&b, "| id | text |\n|----|:----|\n");
    for (size_t i = 0; i < n; i++) {
        cairn_buf_printf(&b, "| %zu | ", i);
        for (size_t k = 0; k < bytes; k++)
            cairn_buf_puts(&b, k % 7 == 6 ? ". " : "w");
        cairn_buf_puts(&b, " |\n");
    }
    CHECK(!b.failed);
    return cairn_buf_steal(&b);
}

static void a_small_table_stays_whole_with_its_heading(void **state)
{
    UNUSED_STATE(state);
    char *text = table("# Prices\n\nsome text before it\n\n## List\n\n", 30, 40);
    struct loader_document *d = parse("a.md", text);
    const char *at = strstr(text, "## List");
    text[strlen(text) - 1] = '\0';
    const struct loader_passage *p = holding(d, at);
    CHECK(p == NULL || p->end - p->start > 1500);
    loader_document_free(d);
    cairn_free(text);
}

static void a_table_row_is_never_cut(void **state)
{
    UNUSED_STATE(state);
    char *text = table("# Prices\n\n", 60, 150);
    struct loader_document *d = parse("a.md", text);
    CHECK_GE(d->n_passages, 5);
    for (size_t i = 0; i < d->n_passages; i++) {
        CHECK(d->text[d->passages[i].end - 1] == '|');
        CHECK(i == 0 || d->text[d->passages[i].start] == '|');
    }
    CHECK(holding(d, "| id | text |\n|----|:----|\n| 0 | ")); /* the header row is not left alone */
    loader_document_free(d);
    cairn_free(text);
    text = table("", 3, 3000); /* longer than a passage: cut, at spaces */
    d = parse("a.md", text);
    CHECK_GE(d->n_passages, 6);
    loader_document_free(d);
    cairn_free(text);
}

static void long_paragraphs_are_split_at_sentences(void **state)
{
    UNUSED_STATE(state);
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    for (int i = 0; i < 100; i++)
        cairn_buf_printf(&b, "Sentence number %d says something of a usual length. ", i);
    struct loader_document *d = parse("a.txt", b.bytes);
    CHECK_GE(d->n_passages, 4);
    for (size_t i = 0; i < d->n_passages; i++) {
        CHECK(d->text[d->passages[i].end - 1] == '.');
        CHECK(d->text[d->passages[i].start] == 'S');
        size_t len = d->passages[i].end - d->passages[i].start;
        CHECK_LE(len, 1200);
        CHECK(len >= 400 || i + 1 == d->n_passages);
    }
    loader_document_free(d);
    cairn_buf_release(&b);
}

static void a_short_rest_joins_the_passage_before_it(void **state)
{
    UNUSED_STATE(state);
    char text[1400];
    memset(text, 'w', sizeof text);
    for (size_t i = 60; i < 1000; i += 61)
        text[i] = ' ';
    memcpy(text + 1000, "\n\nA short end.\n", 16);
    struct loader_document *d = parse("a.md", text);
    CHECK_U64_EQ(d->n_passages, 1);
    loader_document_free(d);
}

static void what_announces_a_list_goes_with_it(void **state)
{
    UNUSED_STATE(state);
    char text[4096];
    size_t n = 0;
    n += (size_t)snprintf(text + n, sizeof text - n, "# H\n\n");
    for (int i = 0; i < 9; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "Some sentence that fills the first paragraph up to its length, number %d.\n",
                              i);
    n += (size_t)snprintf(
        text + n, sizeof text - n,
        "\nYou need these things for your first day in the office, all of them on paper:\n\n");
    for (int i = 0; i < 6; i++)
        n +=
            (size_t)snprintf(text + n, sizeof text - n,
                             "- thing number %d with a few words about it that make it somewhat longer\n", i);
    struct loader_document *d = parse("a.md", text);
    CHECK_GE(d->n_passages, 2);
    CHECK(holding(d, "all of them on paper:\n\n- thing number 0"));
    loader_document_free(d);
}

static void plain_text_has_a_title_and_sections(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d = parse(
        "budget.txt",
        "TRAINING AND CONFERENCES\nPeople team, edition of 5 November\n\n1. Budget\n   Each has 1,500.\n"
        "   It lapses.\n\n2. Time\n   Five days.\n\nAppendix\n========\n\nNothing.\n");
    CHECK_STR_EQ(d->title, "TRAINING AND CONFERENCES");
    CHECK_STR_EQ(holding(d, "It lapses.")->path, "TRAINING AND CONFERENCES > 1. Budget");
    CHECK_STR_EQ(holding(d, "2. Time\n   Five days.")->path, "TRAINING AND CONFERENCES > 2. Time");
    CHECK_STR_EQ(holding(d, "Nothing.")->path, "Appendix");
    loader_document_free(d);
    d = parse("notes/x.txt", "A sentence is not a title.\n\nNor is this one.\n");
    CHECK_STR_EQ(d->title, "x.txt");
    CHECK_STR_EQ(d->passages[0].path, "");
    loader_document_free(d);
}

static void html_gives_the_visible_text(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d = parse(
        "p.html",
        "<!doctype html><html><head><title>Site | Page</title><style>x{}</style></head><body>"
        "<nav><a href=/>Home</a></nav><header><a href=/>Quellmar intranet</a></header>"
        "<h1>Laptop  <em>catalogue</em></h1><p>Valid for <b>four&nbsp;years</b>;\n at least &euro;60.</p>"
        "<script>var a = 'no';</script><noscript>no</noscript><template><p>no</p></template><!-- no -->"
        "<p hidden>no</p><div style='color:red; DISPLAY : none !important'>no<p>no</p></div>"
        "<span style=\"visibility:hidden\">no</span><p style='font-size:0px'>no</p><p "
        "style='opacity:0.0'>no</p>"
        "<p style='opacity:0.5'>pale</p><select><option>no</select><del>no</del>"
        "<table><caption>Models</caption><thead><tr><th>Model<th>Price</"
        "thead><tbody><tr><td>Eisvogel<td>3,950"
        "<tr><td></td><td>free</td></tr><tr><td> <td> </tbody></table>"
        "<h2>Order</h2><ul><li>one<ol start=3><li>sub</li><li><p>deep</p><p>er</p></ol></li><li>two</ul>"
        "<pre>a  b\n\n  c</pre>first<br>second<p>10<sup>6</sup> m<sup><a href=#f>1</a></sup> "
        "1<sup>st</sup></p>"
        "<footer><a href=/>no</a></footer><footer>Edition of 2 January</footer></body></html>");
    CHECK_STR_EQ(d->text, "# Laptop catalogue\n\nValid for four years; at least \xE2\x82\xAC"
                          "60.\n\npale\n\nModels\nModel | Price\nEisvogel | 3,950\n| free\n\n## Order\n\n- "
                          "one\n  3. sub\n  4. deep\n    er\n"
                          "- two\n\na  b\n\n  c\n\nfirst\nsecond\n\n10^6 m[1] 1st\n\nEdition of 2 January");
    CHECK_STR_EQ(d->title, "Laptop catalogue");
    CHECK_STR_EQ(holding(d, "Eisvogel | 3,950")->path, "Laptop catalogue");
    CHECK_STR_EQ(holding(d, "3. sub")->path, "Laptop catalogue > Order");
    loader_document_free(d);
    d = parse("p.html", "<title> The  page </title><p>text");
    CHECK_STR_EQ(d->title, "The page");
    loader_document_free(d);
}

static void a_layout_table_is_read_as_blocks(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d = parse(
        "p.html",
        "<table><tr><td><h2>Head</h2><p>Left</p></td><td><table><tr><td>a<td>b</table></td></tr></table>");
    CHECK_STR_EQ(d->text, "## Head\n\nLeft\n\na | b");
    loader_document_free(d);
}

static void unseen_characters_are_left_out_of_html_and_counted(void **state)
{
    UNUSED_STATE(state);
    struct loader_document *d = parse("p.html", "<p>pass\xE2\x80\x8Bword \xE2\x80\xAE"
                                                "x \xF3\xA0\x81\x81\xF3\xA0\x81\x82 "
                                                "\xD9\x86\xD9\x85\xE2\x80\x8C\xD8\xA7 a\xE2\x80\x8D</p>");
    CHECK_STR_EQ(d->text, "password x \xD9\x86\xD9\x85\xE2\x80\x8C\xD8\xA7 a");
    CHECK_U64_EQ(d->n_invisible, 5);
    loader_document_free(d);
    d = parse("p.md", "pass\xE2\x80\x8Bword");
    CHECK_STR_EQ(d->text, "pass\xE2\x80\x8Bword"); /* offsets stay those of the file */
    CHECK_U64_EQ(d->n_invisible, 1);
    loader_document_free(d);
}

/* ---- any input keeps the promises
 * ------------------------------------------------------------------------------- */

static const char *const bits[] = {
    "# ",
    "## ",
    "\n",
    "\n\n",
    "- ",
    "1. ",
    "> ",
    "| a | b |\n",
    "|---|---|\n",
    "```\n",
    "`",
    "*",
    "_",
    "[x](y)",
    "![",
    "<div>",
    "</div>",
    "<p>",
    "<table>",
    "<tr><td>",
    "</table>",
    "<li>",
    "<ul>",
    "</ul>",
    "<pre>",
    "</pre>",
    "<h2>",
    "</h2>",
    "<!--",
    "-->",
    "<b>",
    "</b>",
    "&amp;",
    "word ",
    "Wörter. ",
    "\xE6\xBC\xA2\xE5\xAD\x97",
    "\xC2\xA0",
    "    ",
    "\t",
    "\r\n",
    "\r",
    "===\n",
    "---\n",
    "\xF0\x9F\x98\x80",
    "a longer run of words that fills some space in a passage, with a comma. ",
    "<script>",
    "</script>",
    "<sup>",
    "<q>",
    "<select>",
    "<br>",
};

static void random_documents_keep_the_promises(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 42;
    static const enum loader_format formats[] = {LOADER_TEXT, LOADER_MARKDOWN, LOADER_HTML};
    size_t parsed = 0;
    for (int round = 0; round < 3000; round++) {
        TEST_WHY;
        struct cairn_buf b;
        cairn_buf_init(&b, 0);
        size_t n = test_rand(&seed) % (round % 50 == 0 ? 3000 : 60) + 1;
        for (size_t i = 0; i < n; i++)
            cairn_buf_puts(&b, bits[test_rand(&seed) % (sizeof bits / sizeof bits[0])]);
        struct loader_document *d;
        enum cairn_err err = loader_parse(&d, "x", b.bytes, b.len, formats[round % 3], NULL, &why);
        if (err)
            CHECK_I64_EQ(err, CAIRN_EINVAL); /* nothing but space, or all of it hidden */
        else {
            const char *broken = promise_broken(d, PASSAGE_MAX);
            if (broken)
                print_error("round %d: %s\n%s\n", round, broken, b.bytes);
            CHECK(!broken);
            parsed++;
        }
        loader_document_free(d);
        cairn_buf_release(&b);
    }
    CHECK_GE(parsed, 2500);
}

static size_t parse_tree(const char *root)
{
    TEST_WHY;
    struct loader_listing l;
    CHECK_OK(loader_list(&l, root, NULL, &why));
    for (size_t i = 0; i < l.n; i++) {
        char *bytes;
        size_t len;
        CHECK_OK(cairn_read_file(&bytes, &len, l.files[i].path, 1 << 24, &why));
        struct loader_document *d;
        CHECK_OK(loader_parse(&d, l.files[i].id, bytes, len, LOADER_UNKNOWN, NULL, &why));
        const char *broken = promise_broken(d, PASSAGE_MAX);
        if (broken)
            print_error("%s: %s\n", l.files[i].id, broken);
        CHECK(!broken);
        if (d->format != LOADER_HTML)
            CHECK(strcmp(d->text, bytes) == 0);
        loader_document_free(d);
        cairn_free(bytes);
    }
    size_t n = l.n;
    loader_listing_release(&l);
    return n;
}

static void real_documents_keep_the_promises(void **state)
{
    UNUSED_STATE(state);
    CHECK_GE(parse_tree("data/kb"), 20);
    const char *docs = test_shared_file("docs-markdown"), *office = test_shared_file("office-samples");
    if (!docs || !office)
        skip();
    CHECK_GE(parse_tree(docs), 71);
    CHECK_GE(parse_tree(office), 3);
}

static void limits_come_from_the_configuration(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_config *c = cairn_config_new();
    CHECK(c);
    CHECK_OK(cairn_config_add_table(c, loaders_conf, loaders_conf_len, &why));
    CHECK_OK(cairn_config_set(c, "loaders.passage_bytes", "200", &why));
    CHECK_OK(cairn_config_set(c, "loaders.passage_bytes_max", "300", &why));
    CHECK_OK(cairn_config_set(c, "loaders.passages_max", "20", &why));
    CHECK_OK(cairn_config_set(c, "loaders.file_bytes_max", "20k", &why));
    char *text = table("# T\n\n", 20, 100);
    struct loader_document *d;
    CHECK_OK(loader_parse(&d, "a.md", text, strlen(text), LOADER_UNKNOWN, c, &why));
    CHECK(promise_broken(d, 300) == NULL);
    CHECK_GE(d->n_passages, 8);
    loader_document_free(d);
    cairn_free(text);
    text = table("# T\n\n", 100, 100);
    CHECK_ERR(loader_parse(&d, "a.md", text, strlen(text), LOADER_UNKNOWN, c, &why), CAIRN_EFULL);
    CHECK(d == NULL && strstr(why.text, "loaders.passages_max"));
    cairn_free(text);
    text = table("# T\n\n", 300, 100);
    CHECK_ERR(loader_parse(&d, "a.md", text, strlen(text), LOADER_UNKNOWN, c, &why), CAIRN_EFULL);
    CHECK(strstr(why.text, "loaders.file_bytes_max"));
    cairn_free(text);
    cairn_config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(formats_are_told_by_name_then_content),
        TEST(markdown_headings_give_the_path),
        TEST(markdown_text_is_the_file_itself),
        TEST(what_looks_like_a_heading_in_code_is_none),
        TEST(front_matter_names_the_document),
        TEST(a_small_table_stays_whole_with_its_heading),
        TEST(a_table_row_is_never_cut),
        TEST(long_paragraphs_are_split_at_sentences),
        TEST(a_short_rest_joins_the_passage_before_it),
        TEST(what_announces_a_list_goes_with_it),
        TEST(plain_text_has_a_title_and_sections),
        TEST(html_gives_the_visible_text),
        TEST(a_layout_table_is_read_as_blocks),
        TEST(unseen_characters_are_left_out_of_html_and_counted),
        TEST(random_documents_keep_the_promises),
        TEST(real_documents_keep_the_promises),
        TEST(limits_come_from_the_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
